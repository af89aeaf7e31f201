import sys

import pytest

from fcos_rpn.evaluation import coco


@pytest.fixture(params=["hotcoco", "pycocotools"])
def coco_library(request, monkeypatch):
    coco.coco_api.cache_clear()
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "hotcoco", None)  # importing it fails
    yield request.param
    coco.coco_api.cache_clear()
