import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dev import build_coco_mini as tool
from dev.build_coco_mini import IMAGE_IDS, build_coco_mini, select, shrink
from fcos_rpn.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
COCO: dict[str, list[dict[str, Any]]] = {
    "images": [
        {"id": 7, "file_name": "7.jpg", "width": 640, "height": 480},
        {"id": 8, "file_name": "8.jpg", "width": 100, "height": 200},
    ],
    "annotations": [
        {"id": 1, "image_id": 8, "category_id": 3, "bbox": [10, 20, 30, 40], "area": 900, "iscrowd": 1},
        {"id": 3, "image_id": 8, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [64, 48, 32, 16], "area": 9, "segmentation": [[0, 0, 1, 1]]},
    ],
    "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "person"}],
}


def write_coco(folder: Path) -> tuple[Path, Path]:
    for image in COCO["images"]:
        Image.new("RGB", (image["width"], image["height"]), (200, 10, 10)).save(folder / image["file_name"])
    (folder / "instances.json").write_text(json.dumps(COCO))
    return folder, folder / "instances.json"


def test_select_keeps_the_order_asked_for():
    found = select(COCO, [8, 7], Path("x.json"))
    assert [image["id"] for image in found["images"]] == [8, 7]
    assert [annotation["id"] for annotation in found["annotations"]] == [1, 3, 2]
    assert [annotation["id"] for annotation in select(COCO, [7], Path("x.json"))["annotations"]] == [2]


def test_select_names_what_is_missing():
    with pytest.raises(UserError, match=r"x\.json: 2 of 3 images are not in it, the first is 5; .*instances_val2017"):
        select(COCO, [7, 5, 6], Path("x.json"))


def test_shrink():
    found = shrink(COCO, 320)
    # 640 x 480 halves; 100 x 200 grows by 1.6, since the long side is to be 320.
    assert [(image["width"], image["height"]) for image in found["images"]] == [(320, 240), (160, 320)]
    assert found["annotations"] == [
        {"id": 1, "image_id": 8, "category_id": 3, "iscrowd": 1, "bbox": [16, 32, 48, 64], "area": 3072},
        {"id": 3, "image_id": 8, "category_id": 1, "iscrowd": 0, "bbox": [16, 32, 48, 64], "area": 3072},
        {"id": 2, "image_id": 7, "category_id": 3, "iscrowd": 0, "bbox": [32, 24, 16, 8], "area": 128},
    ]


def test_build_keeps_pictures_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "IMAGE_IDS", {"train": [8], "val": [7]})
    (tmp_path / "mini" / "images").mkdir(parents=True)
    (tmp_path / "mini" / "images" / "8.jpg").write_bytes(b"there")
    build_coco_mini(*write_coco(tmp_path), tmp_path / "mini")
    assert (tmp_path / "mini" / "images" / "8.jpg").read_bytes() == b"there"
    with Image.open(tmp_path / "mini" / "images" / "7.jpg") as image:
        assert image.size == (320, 240)
        assert all(abs(a - b) < 5 for a, b in zip(image.getpixel((5, 5)), (200, 10, 10), strict=True))
    content = json.loads((tmp_path / "mini" / "instances_train.json").read_text())
    assert [image["id"] for image in content["images"]] == [8]
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 3]
    persons = json.loads((tmp_path / "mini" / "persons_train.json").read_text())
    assert persons["images"] == content["images"]
    assert [annotation["id"] for annotation in persons["annotations"]] == [3]
    assert persons["categories"] == [{"id": 1, "name": "person"}]


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_are_those_of_the_set_that_the_results_come_from(split):
    coco = json.loads((SHARED / "coco_val2017" / "instances_val2017_rebuilt.json").read_text())
    found = shrink(select(coco, IMAGE_IDS[split], Path("val2017")), 320)
    expected = json.loads((SHARED / "coco_mini320" / f"instances_{split}.json").read_text())
    for image, same in zip(found["images"], expected["images"], strict=True):
        assert (image["id"], image["width"], image["height"]) == (same["id"], same["width"], same["height"])
    boxes = {annotation["id"]: annotation for annotation in found["annotations"]}
    assert len(boxes) == len(expected["annotations"])
    for same in expected["annotations"]:
        assert boxes[same["id"]]["bbox"] == pytest.approx(same["bbox"], abs=0.5)
        assert boxes[same["id"]]["iscrowd"] == same["iscrowd"]
