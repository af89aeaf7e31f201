import pytest

from tests.tiny import write_coco_folder


@pytest.fixture
def coco_folder(tmp_path, detectron2_restored) -> list[str]:
    """A data set of four images of two classes, as folders are given in a config; Detectron2 forgets it afterwards."""
    return list(write_coco_folder(tmp_path / "coco"))
