import json
from pathlib import Path

import pytest

from dev.experiment.fold import split
from fcos_rpn import UserError
from tests.tiny import write_coco_folder


def test_every_fifth_image_is_held_out(tmp_path):
    _, annotations = write_coco_folder(tmp_path / "data", num_images=10)
    train, held_out = (json.loads(file.read_text()) for file in split(Path(annotations), tmp_path / "fold"))
    assert [image["id"] for image in held_out["images"]] == [1, 6]
    assert len(train["images"]) == 8
    assert {box["image_id"] for box in held_out["annotations"]} == {1, 6}
    assert len(train["annotations"]) + len(held_out["annotations"]) == 20


def test_the_folds_are_checked(tmp_path):
    (tmp_path / "other.json").write_text('{"annotations": [], "categories": []}')
    with pytest.raises(UserError, match=r"other\.json: "):
        split(tmp_path / "other.json", tmp_path)
    _, empty = write_coco_folder(tmp_path / "empty", num_images=10, boxes_per_image=0)
    with pytest.raises(UserError, match="must have boxes"):
        split(Path(empty), tmp_path)
    _, one = write_coco_folder(tmp_path / "one", num_images=1)
    with pytest.raises(UserError, match="the images but every fifth must have boxes"):
        split(Path(one), tmp_path)
