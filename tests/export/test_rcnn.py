import pytest
import torch
from detectron2.modeling import build_model

from fcos_rpn.export.rcnn import pool, why_not
from tests.export.small_networks import small_config, small_model


def test_pools_from_the_level_that_the_pooler_would():
    """Sides of 14, 112, 224 and 448 pixels: the pooler has P3 to P5, and the canonical 224 belongs to P4."""
    pooler = small_model(small_config("GeneralizedRCNN")).roi_heads.box_pooler
    features = [torch.full((1, 1, 512 // stride, 512 // stride), float(stride)) for stride in (8, 16, 32)]
    boxes = torch.tensor([[20.0, 20.0, 20.0 + side, 20.0 + side] for side in (14, 112, 224, 448)])
    assert pool(features, boxes, pooler)[:, 0, 1, 1].tolist() == [8, 8, 16, 32]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["MODEL.ROI_HEADS.NAME", "FusedScoreROIHeads"], "FusedScoreROIHeads are not"),
        (["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"], "masks or keypoints"),
        (["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True], "sigmoids"),
    ],
)
def test_heads_that_cannot_be_followed_are_named(overrides, reason):
    cfg = small_config("GeneralizedRCNN")
    cfg.merge_from_list(overrides)
    assert reason in why_not(build_model(cfg).roi_heads)
