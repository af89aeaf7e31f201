"""Which config key each constructor argument is read from: the one table of YAML configs and LazyConfigs."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from detectron2.config import CfgNode

from ..errors import ArgumentError, UserError

Part = TypeVar("Part")

HEAD = {
    "num_convs": "MODEL.FCOS.NUM_CONVS",
    "num_shared_convs": "MODEL.FCOS.NUM_SHARED_CONVS",
    "norm": "MODEL.FCOS.NORM",
    "tower_bias": "MODEL.FCOS.TOWER_BIAS",
    "use_deformable": "MODEL.FCOS.USE_DEFORMABLE",
    "bbox_activation": "MODEL.FCOS.BBOX_ACTIVATION",
    "use_scale": "MODEL.FCOS.USE_SCALE",
    "centerness": "MODEL.FCOS.CENTERNESS",
    "prior_prob": "MODEL.FCOS.PRIOR_PROB",
}
ASSIGNER = {
    "sizes_of_interest": "MODEL.FCOS.SIZES_OF_INTEREST",
    "center_sampling_radius": "MODEL.FCOS.CENTER_SAMPLING_RADIUS",
}
LOSSES = {
    "focal_loss_alpha": "MODEL.FCOS.FOCAL_LOSS_ALPHA",
    "focal_loss_gamma": "MODEL.FCOS.FOCAL_LOSS_GAMMA",
    "box_loss": "MODEL.FCOS.BBOX_REG_LOSS_TYPE",
    "box_loss_weight_by": "MODEL.FCOS.BBOX_REG_LOSS_WEIGHT_BY",
    "cls_weight": "MODEL.FCOS.LOSS_WEIGHTS.CLS",
    "loc_weight": "MODEL.FCOS.LOSS_WEIGHTS.LOC",
    "ctr_weight": "MODEL.FCOS.LOSS_WEIGHTS.CTR",
}
CORE = {"location_offset": "MODEL.FCOS.LOCATION_OFFSET"}

# The one-stage role: its levels and classes, its selection, its images.
DETECTOR = {"in_features": "MODEL.FCOS.IN_FEATURES", "num_classes": "MODEL.FCOS.NUM_CLASSES"}
DETECTIONS = {
    "score_thresh": "MODEL.FCOS.SCORE_THRESH_TEST",
    "pre_nms_topk": "MODEL.FCOS.TOPK_CANDIDATES_TEST",
    "nms_thresh": "MODEL.FCOS.NMS_THRESH_TEST",
    "post_nms_topk": "TEST.DETECTIONS_PER_IMAGE",
    "score_fusion": "MODEL.FCOS.SCORE_FUSION",
    "thresh_on": "MODEL.FCOS.THRESH_ON",
}
IMAGES = {"pixel_mean": "MODEL.PIXEL_MEAN", "pixel_std": "MODEL.PIXEL_STD"}
PICTURES = {"input_format": "INPUT.FORMAT", "vis_period": "VIS_PERIOD"}

# The RPN role: levels and budgets are Detectron2's, so that its configs keep their meaning.
PROPOSER = {"in_features": "MODEL.RPN.IN_FEATURES"}
_PROPOSALS = {
    "nms_thresh": "MODEL.RPN.NMS_THRESH",
    "min_box_size": "MODEL.PROPOSAL_GENERATOR.MIN_SIZE",
    "nms_per_level": "MODEL.FCOS.PROPOSAL_NMS_PER_LEVEL",
    "score_fusion": "MODEL.FCOS.SCORE_FUSION",
}
TRAIN_PROPOSALS = {
    "pre_nms_topk": "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    "post_nms_topk": "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    **_PROPOSALS,
}
TEST_PROPOSALS = {
    "pre_nms_topk": "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "post_nms_topk": "MODEL.RPN.POST_NMS_TOPK_TEST",
    **_PROPOSALS,
}
PROPOSAL_GENERATOR = {"loss_weight": "MODEL.RPN.LOSS_WEIGHT"}
ROI_HEADS = {"objectness_temperature": "MODEL.ROI_HEADS.OBJECTNESS_TEMPERATURE"}

TORCHVISION = {
    "name": "MODEL.TORCHVISION.NAME",
    "nodes": "MODEL.TORCHVISION.NODES",
    "norm": "MODEL.TORCHVISION.NORM",
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
}
TIMM = {
    "name": "MODEL.TIMM.NAME",
    "stages": "MODEL.FPN.IN_FEATURES",
    "norm": "MODEL.TIMM.NORM",
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
}


def read(cfg: CfgNode, keys: Mapping[str, str], **given: Any) -> dict[str, Any]:
    """Read the value of each argument from its key; values given here replace those of the config."""
    return {**{name: functools.reduce(getattr, key.split("."), cfg) for name, key in keys.items()}, **given}


@contextlib.contextmanager
def naming_keys(keys: Mapping[str, str]) -> Iterator[None]:
    """Put the config key in front of messages about an argument of this table."""
    try:
        yield
    except ArgumentError as error:
        if error.argument not in keys:
            raise
        raise UserError(f"{keys[error.argument]}: {error}") from error


def build(part: Callable[..., Part], cfg: CfgNode, keys: Mapping[str, str], **given: Any) -> Part:
    """Build a part from the config's values and those given here.

    Raises:
        UserError: if the part refuses a value; the message begins with its key.
    """
    with naming_keys(keys):
        return part(**read(cfg, keys, **given))
