"""Several versions of a picture, one set of detections: FCOS's own augmentation, and Detectron2's for R-CNNs."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNN, GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from fcos_rpn import FCOSWithTTA
from tests.tiny import tiny_batch, tiny_config


def config(meta_architecture="FCOS", *, min_sizes=(64,), flip=False):
    cfg = tiny_config(meta_architecture)
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # so that it detects untrained
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = min_sizes, flip
    return cfg


def random_model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


def pictures(*sizes):
    """Detectron2's inputs of these (height, width), as a mapper makes them."""
    batch = tiny_batch(sizes, [0] * len(sizes))
    return [{"image": x["image"].byte(), "height": x["height"], "width": x["width"]} for x in batch]


class ModelByHand(nn.Module):
    """Finds in each version, one after the other, what it is given: rows of box, score and class."""

    def __init__(self, *of_versions, limit=100):
        super().__init__()
        self.of_versions = iter(of_versions)
        self.postprocessor = SimpleNamespace(nms_thresh=0.6, post_nms_topk=limit)
        self.sizes = []

    def forward(self, batched_inputs):
        assert not torch.is_grad_enabled()  # a graph of all versions would hold much memory
        (x,) = batched_inputs
        self.sizes.append(tuple(x["image"].shape[1:]))
        rows = next(self.of_versions)
        found = Instances(
            self.sizes[-1],
            pred_boxes=Boxes(torch.tensor([box for box, _, _ in rows], dtype=torch.float32).view(-1, 4)),
            scores=torch.tensor([score for _, score, _ in rows]),
            pred_classes=torch.tensor([label for _, _, label in rows], dtype=torch.int64),
        )
        return [{"instances": found}]


def merge_by_hand(*of_versions, limit=100, scale=1):
    """A picture 80 wide and 40 high as it is, mirrored, twice as large, and both."""
    model = ModelByHand(*of_versions, limit=limit)
    augmented = FCOSWithTTA(model, augment=DatasetMapperTTA(min_sizes=[40, 80], max_size=1000, flip=True))
    x = {"image": torch.zeros(3, 40, 80, dtype=torch.uint8), "height": 40 * scale, "width": 80 * scale}
    (output,) = augmented([x])
    assert model.sizes == [(40, 80), (40, 80), (80, 160), (80, 160)]
    assert output.keys() == {"instances"}
    return output["instances"]


VERSIONS = (
    # As it is: the worse twin of the next.
    [((10, 10, 30, 30), 0.6, 0)],
    # Mirrored, x -> 80 - x: (10, 10, 30, 30).
    [((50, 10, 70, 30), 0.8, 0)],
    # Twice as large: (10, 10, 30, 30) of the other class, and (75, 0, 85, 10), which ends at the edge of the picture.
    [((20, 20, 60, 60), 0.5, 1), ((150, 0, 170, 20), 0.3, 1)],
    # Both, x -> 80 - x / 2: (14, 10, 34, 30) has IoU 16 / 24 with the best box; (20, 10, 40, 30) has 10 / 30.
    [((92, 20, 132, 60), 0.7, 0), ((80, 20, 120, 60), 0.4, 0)],
)


@pytest.mark.parametrize("scale", [1, 2])
def test_versions_are_merged_class_by_class_in_pixels_of_the_wanted_output(scale):
    found = merge_by_hand(*VERSIONS, scale=scale)
    assert found.image_size == (40 * scale, 80 * scale)
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.5, 0.4, 0.3]))
    assert found.pred_classes.tolist() == [0, 1, 0, 1]
    expected = torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 30], [20, 10, 40, 30], [75, 0, 80, 10]])
    torch.testing.assert_close(found.pred_boxes.tensor, scale * expected)


def test_the_models_limit_is_that_of_all_versions_together():
    assert merge_by_hand(*VERSIONS, limit=3).pred_classes.tolist() == [0, 1, 0]


def test_versions_without_detections():
    assert len(merge_by_hand([], [], [], [])) == 0
    assert merge_by_hand([], [((50, 10, 70, 30), 0.8, 0)], [], []).pred_boxes.tensor.tolist() == [[10, 10, 30, 30]]


def test_size_of_the_output_is_that_of_the_image_unless_said():
    model = ModelByHand([((10, 10, 30, 30), 0.6, 0)])
    augmented = FCOSWithTTA(model, augment=DatasetMapperTTA(min_sizes=[40], max_size=1000, flip=False))
    (output,) = augmented([{"image": torch.zeros(3, 40, 80, dtype=torch.uint8)}])
    assert output["instances"].image_size == (40, 80)


def test_one_version_that_is_the_picture_itself_is_the_plain_model():
    cfg = config()
    model = random_model(cfg)
    batch = pictures((64, 96), (96, 64), (64, 64))
    for x in batch:
        x["height"], x["width"] = 2 * x["height"], 2 * x["width"]
    with torch.no_grad():
        plain = [output for x in batch for output in model([x])]
    for ours, theirs in zip(FCOSWithTTA(cfg, model)(batch), plain, strict=True):
        ours, theirs = ours["instances"], theirs["instances"]
        assert len(ours) == len(theirs) > 10
        assert ours.image_size == theirs.image_size
        torch.testing.assert_close(ours.scores, theirs.scores)
        torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(ours.pred_classes, theirs.pred_classes)


@pytest.mark.parametrize("masks", [False, True])
def test_detectron2s_own_augmentation_takes_the_rcnn_with_proposals(masks):
    cfg = config("GeneralizedRCNNWithProposals", min_sizes=(48, 64), flip=True)
    cfg.MODEL.MASK_ON = masks
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 1, 16
    model = random_model(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    stock = random_model(cfg)
    assert type(stock) is GeneralizedRCNN
    with torch.no_grad():
        ours, theirs = (GeneralizedRCNNWithTTA(cfg, each)(pictures((64, 96))) for each in (model, stock))
    (ours,), (theirs,) = ours, theirs
    ours, theirs = ours["instances"], theirs["instances"]
    assert len(ours) > 10
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    torch.testing.assert_close(ours.scores, theirs.scores)
    if masks:
        assert torch.equal(ours.pred_masks, theirs.pred_masks)
        assert ours.pred_masks.shape[1:] == (64, 96)
