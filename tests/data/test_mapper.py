import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper
from PIL import Image
from pycocotools import mask as mask_util
from torch.utils.data import DataLoader, Dataset

from fcos_rpn.data.mapper import CheckedDatasetMapper
from fcos_rpn.errors import UserError, user_message


def small_cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


@pytest.fixture
def entry(tmp_path: Path) -> dict:
    """Image 7: a jpg of 40 x 30 pixels with one box."""
    file = tmp_path / "seven.jpg"
    Image.effect_noise((40, 30), 90).convert("RGB").save(file)
    box = {"bbox": [1, 2, 10, 20], "bbox_mode": 1, "category_id": 3, "iscrowd": 0}
    return {"file_name": str(file), "image_id": 7, "width": 40, "height": 30, "annotations": [box]}


@pytest.mark.parametrize("is_train", [True, False])
def test_good_picture_gives_what_detectron2s_mapper_gives(entry, is_train):
    before = copy.deepcopy(entry)
    ours, theirs = (mapper(small_cfg(), is_train)(entry) for mapper in (CheckedDatasetMapper, DatasetMapper))
    assert entry == before
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    if is_train:
        assert ours["instances"].gt_boxes.tensor.tolist() == [[1, 2, 11, 22]]
    del entry["width"], entry["height"]
    found = CheckedDatasetMapper(small_cfg(), is_train)(entry)
    assert (found["width"], found["height"]) == (40, 30)


@pytest.mark.parametrize("is_train", [True, False])
def test_proposals_and_segments_are_those_of_detectron2s_mapper(entry, tmp_path, is_train):
    Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40)).save(tmp_path / "segments.png")
    entry["sem_seg_file_name"] = str(tmp_path / "segments.png")
    entry["proposal_boxes"] = np.array([[1.0, 2, 11, 22], [0, 0, 40, 30]])
    entry["proposal_objectness_logits"] = np.array([1.0, 2])
    entry["proposal_bbox_mode"] = 0
    cfg = small_cfg()
    cfg.MODEL.LOAD_PROPOSALS = True
    ours, theirs = (mapper(cfg, is_train)(copy.deepcopy(entry)) for mapper in (CheckedDatasetMapper, DatasetMapper))
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
    assert torch.equal(ours["proposals"].proposal_boxes.tensor, theirs["proposals"].proposal_boxes.tensor)
    assert torch.equal(ours["proposals"].objectness_logits, theirs["proposals"].objectness_logits)


def test_a_picture_too_thin_to_be_resized_is_named(entry):
    """30 pixels for the shorter side and 1333 for the longer one: of 4000 x 1 pixels, a third of one is left."""
    Image.new("RGB", (4000, 1)).save(entry["file_name"])
    entry.update(width=4000, height=1)
    with pytest.raises(UserError) as error:
        CheckedDatasetMapper(small_cfg(), True)(entry)
    assert str(error.value).startswith(f"{entry['file_name']} (image 7): 4000 x 1 pixels cannot be resized")


def test_channels_of_format_and_mean_fit(entry):
    cfg = small_cfg()
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(UserError, match=r"^pictures of INPUT\.FORMAT L need 1 numbers in MODEL\.PIXEL_MEAN"):
        CheckedDatasetMapper(cfg, True)
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [100.0]
    assert CheckedDatasetMapper(cfg, True)(entry)["image"].shape == (1, 30, 40)


def test_run_lengths_need_bitmasks(entry):
    entry["annotations"][0]["segmentation"] = {
        "size": [30, 40],
        "counts": mask_util.frPyObjects({"size": [30, 40], "counts": [0, 1200]}, 30, 40)["counts"],
    }
    cfg = small_cfg()
    cfg.MODEL.MASK_ON = True
    with pytest.raises(
        UserError, match=r"\(image 7\): an outline is a run-length encoding; set INPUT\.MASK_FORMAT bit"
    ):
        CheckedDatasetMapper(cfg, True)(entry)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    assert CheckedDatasetMapper(cfg, True)(entry)["instances"].gt_masks.tensor.all()
    entry["annotations"].append({**entry["annotations"][0], "iscrowd": 1})
    del entry["annotations"][0]["segmentation"]
    CheckedDatasetMapper(small_cfg(), True)(entry)  # crowds have no polygons, and are not learned


def test_errors_of_an_augmentation_stay_what_they_are(entry, monkeypatch):
    mapper = CheckedDatasetMapper(small_cfg(), True)

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(mapper, "augmentations", fail)
    with pytest.raises(ZeroDivisionError):
        mapper(entry)


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (Path.unlink, "no such file"),
        (lambda file: Image.new("RGB", (30, 40)).save(file), "the picture is 30 x 40 pixels, after the rotation that"),
    ],
    ids=["missing", "other size"],
)
def test_picture_at_fault_is_named(entry, spoil, expected, is_train):
    spoil(Path(entry["file_name"]))
    with pytest.raises(UserError) as error:
        CheckedDatasetMapper(small_cfg(), is_train)(entry)
    assert str(error.value).startswith(f"{entry['file_name']} (image 7): {expected}")


class Findings(Dataset):
    def __getitem__(self, index: int) -> dict:
        try:
            raise UserError("an earlier mistake")
        except UserError as error:
            raise UserError("pets.json:\n  image 1: wrong\n  and 2 more") from error


def test_user_message_keeps_all_lines_of_the_last_error_of_a_worker():
    with pytest.raises(UserError, match="Traceback") as error:
        next(iter(DataLoader(Findings(), batch_size=None, sampler=[0], num_workers=1)))
    assert user_message(error.value) == "pets.json:\n  image 1: wrong\n  and 2 more"
