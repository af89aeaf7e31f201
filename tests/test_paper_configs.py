"""Each row of the paper's tables is what the comment at the head of its file states."""

import re
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg

from fcos_rpn import add_fcos_config
from fcos_rpn.model_zoo import get_config, get_config_file

PAPER = "COCO-Detection/paper"
ROWS = sorted(path.stem for path in Path(get_config_file(f"{PAPER}/table3_giou.yaml")).parent.glob("*.yaml"))

STATED: dict[str, dict[str, Any]] = {
    '"RetinaNet"': {
        "META_ARCHITECTURE": "RetinaNet",
        "ANCHOR_GENERATOR.SIZES": [[size * 2 ** (third / 3) for third in range(3)] for size in (32, 64, 128, 256, 512)],
        "RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
        "RETINANET.NMS_THRESH_TEST": 0.5,
    },
    "P6/P7 from C5": {"BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone"},
    "P6/P7 from P5": {"BACKBONE.NAME": "build_p5_p67_resnet_fpn_backbone"},
    '"FCOS"|"FCOS w/ GN': {"FCOS.CENTER_SAMPLING_RADIUS": 0.0, "FCOS.BBOX_ACTIVATION": "exp"},
    '"FCOS"|"FCOS w/ GN"|predicted by a branch': {"FCOS.CENTERNESS": "cls"},
    'Table 3, "FCOS"|"FCOS w/ GN': {"FCOS.BBOX_REG_LOSS_TYPE": "iou", "FCOS.USE_SCALE": True},
    "no GN": {
        "FCOS.NORM": "",
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
    },
    ', GN, NMS|with GN|"FCOS w/ GN': {"FCOS.NORM": "GN", "SOLVER.CLIP_GRADIENTS.ENABLED": False},
    r'"FCOS".*NMS \.5': {"FCOS.NMS_THRESH_TEST": 0.5},
    r"NMS \.6": {"FCOS.NMS_THRESH_TEST": 0.6},
    r"\+ ctr\. on reg\.|w/ improvements": {"FCOS.CENTERNESS": "reg"},
    r"\+ ctr\. sampling|w/ improvements": {"FCOS.CENTER_SAMPLING_RADIUS": 1.5},
    r"\+ GIoU|w/ improvements": {"FCOS.BBOX_REG_LOSS_TYPE": "giou"},
    r"\+ normalization|w/ improvements": {"FCOS.BBOX_ACTIVATION": "relu"},
    "no centerness|w/o center-ness": {"FCOS.CENTERNESS": "none"},
    "computed from the predicted box": {"FCOS.CENTERNESS": "computed"},
    "ResNet-101": {"WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl", "RESNETS.DEPTH": 101},
    "180k iterations": {"SOLVER.STEPS": (120000, 160000), "SOLVER.MAX_ITER": 180000},
    "scales from 640 to 800": {"INPUT.MIN_SIZE_TRAIN": (640, 800), "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"},
    "HRNet-W32": {
        "WEIGHTS": "hrnet_w32.pth",
        "BACKBONE.NAME": "build_timm_fpn_backbone",
        "BACKBONE.FREEZE_AT": 1,
        "TIMM.NAME": "hrnet_w32",
        "PIXEL_MEAN": [123.675, 116.28, 103.53],
        "PIXEL_STD": [58.395, 57.12, 57.375],
        "INPUT.FORMAT": "RGB",
    },
    "ResNeXt-101 32x8d": {
        "WEIGHTS": "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
        "PIXEL_STD": [57.375, 57.12, 58.395],
        "RESNETS.STRIDE_IN_1X1": False,
        "RESNETS.NUM_GROUPS": 32,
        "RESNETS.WIDTH_PER_GROUP": 8,
    },
    "ResNeXt-101 64x4d": {
        "WEIGHTS": "catalog://ImageNetPretrained/FAIR/X-101-64x4d",
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "RESNETS.NUM_GROUPS": 64,
        "RESNETS.WIDTH_PER_GROUP": 4,
    },
    "anchor RPN": {
        "PROPOSAL_GENERATOR.NAME": "RPN",
        "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "RPN.POST_NMS_TOPK_TEST": 2000,
        "RPN.LOSS_WEIGHT": 1.0,
    },
    "single scale": {"INPUT.MIN_SIZE_TRAIN": (800,), "SOLVER.WARMUP_METHOD": "constant", "SOLVER.WARMUP_ITERS": 500},
    "RPN w/ FPN & GN": {"RPN.HEAD_NAME": "NormRPNHead", "RPN.CONV_DIMS": [-1, -1, -1, -1], "RPN.NORM": "GN"},
    '"FCOS w/ GN|w/o center-ness': {"PROPOSAL_GENERATOR.NAME": "FCOSRPN"},
    "no scalars": {"FCOS.USE_SCALE": False},
    "with a learnable scalar": {"FCOS.USE_SCALE": True},
    "no IoU loss": {"FCOS.BBOX_REG_LOSS_TYPE": "smooth_l1"},
    "with the IoU loss": {"FCOS.BBOX_REG_LOSS_TYPE": "iou"},
    "single level of stride 16": {
        "BACKBONE.NAME": "build_resnet_backbone",
        "RESNETS.OUT_FEATURES": ["res4"],
        "FCOS.IN_FEATURES": ["res4"],
    },
}
"""Words of a comment -> keys of MODEL, or of INPUT or SOLVER, and their values."""


def row(name: str) -> CfgNode:
    return get_config(f"{PAPER}/{name}.yaml")


def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {f"{prefix}{name}": value})
    return {key.removeprefix("MODEL."): value for key, value in flat.items()}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_its_comment_states(name):
    comment, _, base = Path(get_config_file(f"{PAPER}/{name}.yaml")).read_text(encoding="utf-8").partition("_BASE_:")
    assert comment.startswith("# Table")
    words = comment.replace("\n# ", " ")
    stated = {key: value for phrase, keys in STATED.items() if re.search(phrase, words) for key, value in keys.items()}
    cfg = flatten(row(name))
    assert {key: cfg[key] for key in stated} == stated
    parent = base.split('"')[1].removesuffix(".yaml")
    if parent in ROWS:
        before = flatten(row(parent))
        assert {key for key, value in cfg.items() if value != before[key]} <= stated.keys()


def test_all_improvements_together_are_the_default():
    one, other = row("table3_normalization"), get_config("COCO-Detection/fcos_R_50_FPN_1x.yaml")
    for cfg in (one, other):
        assert not cfg.SOLVER.CLIP_GRADIENTS.ENABLED
        del cfg.SOLVER["CLIP_GRADIENTS"]
    assert one == other
    fcos_defaults = get_cfg()
    add_fcos_config(fcos_defaults)
    assert row("table3_normalization").MODEL.FCOS == fcos_defaults.MODEL.FCOS


def test_tables_3_and_8_meet():
    """Table 8 ends at a model of table 3, which was evaluated with another threshold."""
    one, other = row("table8_iou"), row("table3_fcos_p5_gn")
    assert (one.MODEL.FCOS.NMS_THRESH_TEST, other.MODEL.FCOS.NMS_THRESH_TEST) == (0.5, 0.6)
    one.MODEL.FCOS.NMS_THRESH_TEST = 0.6
    assert one == other
