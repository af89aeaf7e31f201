import sys

import pytest

from fcos_rpn.evaluation import matching


@pytest.fixture(params=["hotcoco", "pycocotools"])
def coco_library(request, monkeypatch):
    matching.coco_api.cache_clear()
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "hotcoco", None)  # importing it fails
    yield request.param
    matching.coco_api.cache_clear()
