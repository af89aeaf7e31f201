"""Each row of the paper's tables differs from the row it builds on in the keys listed here, and in nothing else."""

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator

from fcos_rpn import add_fcos_config
from fcos_rpn.model_zoo import get_config

PAPER = "COCO-Detection/paper"

TWO_X = {
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "MODEL.RESNETS.DEPTH": 101,
    "SOLVER.STEPS": (120000, 160000),
    "SOLVER.MAX_ITER": 180000,
    "INPUT.MIN_SIZE_TRAIN": (640, 800),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
}
RESNEXT = {
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
    "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.NUM_GROUPS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
}
ANCHORS_OF_RETINANET = [[size * 2 ** (third / 3) for third in range(3)] for size in (32, 64, 128, 256, 512)]
PLAIN_FCOS = {
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0,
    "MODEL.FCOS.BBOX_ACTIVATION": "exp",
    "MODEL.FCOS.CENTERNESS": "cls",
    "MODEL.FCOS.BBOX_REG_LOSS_TYPE": "iou",
}
IMPROVEMENTS = {
    "MODEL.FCOS.CENTERNESS": "reg",
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 1.5,
    "MODEL.FCOS.BBOX_REG_LOSS_TYPE": "giou",
    "MODEL.FCOS.BBOX_ACTIVATION": "relu",
}

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "table3_retinanet_c5": (
        "../../Base-FCOS",
        {
            "MODEL.META_ARCHITECTURE": "RetinaNet",
            "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
            "MODEL.ANCHOR_GENERATOR.SIZES": ANCHORS_OF_RETINANET,
            "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
        },
    ),
    "table3_fcos_c5": (
        "../../Base-FCOS",
        {
            **PLAIN_FCOS,
            "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
            "MODEL.FCOS.NORM": "",
            "MODEL.FCOS.NMS_THRESH_TEST": 0.5,
            "SOLVER.CLIP_GRADIENTS.ENABLED": True,
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
        },
    ),
    "table3_fcos_p5": ("table3_fcos_c5", {"MODEL.BACKBONE.NAME": "build_p5_p67_resnet_fpn_backbone"}),
    "table3_fcos_p5_nms06": ("table3_fcos_p5", {"MODEL.FCOS.NMS_THRESH_TEST": 0.6}),
    "table3_fcos_p5_gn": ("table3_fcos_p5_nms06", {"MODEL.FCOS.NORM": "GN", "SOLVER.CLIP_GRADIENTS.ENABLED": False}),
    "table3_ctr_on_reg": ("table3_fcos_p5_gn", {"MODEL.FCOS.CENTERNESS": "reg"}),
    "table3_ctr_sampling": ("table3_ctr_on_reg", {"MODEL.FCOS.CENTER_SAMPLING_RADIUS": 1.5}),
    "table3_giou": ("table3_ctr_sampling", {"MODEL.FCOS.BBOX_REG_LOSS_TYPE": "giou"}),
    "table3_normalization": ("table3_giou", {"MODEL.FCOS.BBOX_ACTIVATION": "relu"}),
    "table4_branch": ("table3_fcos_p5_gn", {}),
    "table4_no_centerness": ("table4_branch", {"MODEL.FCOS.CENTERNESS": "none"}),
    "table4_computed": ("table4_branch", {"MODEL.FCOS.CENTERNESS": "computed"}),
    "table5_r101_2x": ("table3_fcos_p5_gn", TWO_X),
    "table5_hrnet_w32_2x": (
        "table5_r101_2x",
        {
            "MODEL.WEIGHTS": "hrnet_w32.pth",
            "MODEL.BACKBONE.NAME": "build_timm_fpn_backbone",
            "MODEL.BACKBONE.FREEZE_AT": 1,
            "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
            "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
            "INPUT.FORMAT": "RGB",
        },
    ),
    "table5_x101_32x8d_2x": ("table5_r101_2x", RESNEXT),
    "table5_x101_64x4d_2x": (
        "table5_x101_32x8d_2x",
        {
            "MODEL.WEIGHTS": "catalog://ImageNetPretrained/FAIR/X-101-64x4d",
            "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
            "MODEL.RESNETS.NUM_GROUPS": 64,
            "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        },
    ),
    "table5_x101_64x4d_2x_improved": ("table5_x101_64x4d_2x", IMPROVEMENTS),
    "table6_rpn": (
        "../../Base-FCOS-RPN",
        {
            "MODEL.META_ARCHITECTURE": "ProposalNetwork",
            "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
            "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
            "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
            "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "MODEL.RPN.POST_NMS_TOPK_TEST": 2000,
            "MODEL.RPN.LOSS_WEIGHT": 1.0,
            "SOLVER.WARMUP_METHOD": "constant",
            "SOLVER.WARMUP_FACTOR": 1 / 3,
            "SOLVER.WARMUP_ITERS": 500,
            "INPUT.MIN_SIZE_TRAIN": (800,),
        },
    ),
    "table6_rpn_gn": ("table6_rpn", {"MODEL.RPN.HEAD_NAME": "NormRPNHead", "MODEL.RPN.CONV_DIMS": [-1, -1, -1, -1]}),
    "table6_fcos_rpn": ("table6_rpn", {"MODEL.PROPOSAL_GENERATOR.NAME": "FCOSRPN", **PLAIN_FCOS}),
    "table6_fcos_rpn_no_centerness": ("table6_fcos_rpn", {"MODEL.FCOS.CENTERNESS": "none"}),
    "table8_fcos_c5": (
        "table3_fcos_c5",
        {"MODEL.FCOS.USE_SCALE": False, "MODEL.FCOS.BBOX_REG_LOSS_TYPE": "smooth_l1"},
    ),
    "table8_fcos_p5": ("table8_fcos_c5", {"MODEL.BACKBONE.NAME": "build_p5_p67_resnet_fpn_backbone"}),
    "table8_gn": ("table8_fcos_p5", {"MODEL.FCOS.NORM": "GN", "SOLVER.CLIP_GRADIENTS.ENABLED": False}),
    "table8_scalar": ("table8_gn", {"MODEL.FCOS.USE_SCALE": True}),
    "table8_iou": ("table8_scalar", {"MODEL.FCOS.BBOX_REG_LOSS_TYPE": "iou"}),
    "bpr_p4_only": (
        "table3_fcos_p5_nms06",
        {
            "MODEL.BACKBONE.NAME": "build_resnet_backbone",
            "MODEL.RESNETS.OUT_FEATURES": ["res4"],
            "MODEL.FCOS.IN_FEATURES": ["res4"],
        },
    ),
}
"""Row -> the row or base it builds on, and the keys in which it differs. Base-FCOS is the sum of all improvements."""


def row(name: str) -> CfgNode:
    return get_config(str(Path(PAPER, f"{name}.yaml")))


def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {f"{prefix}{name}": value})
    return flat


def test_every_row_has_its_file():
    folder = Path(__file__).parents[1] / "configs" / PAPER
    assert {path.stem for path in folder.glob("*.yaml")} == ROWS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_differs_from_the_one_it_builds_on_in_its_own_keys(name):
    base, expected = ROWS[name]
    before, after = flatten(row(base)), flatten(row(name))
    changed = {key: value for key, value in after.items() if value != before[key]}
    assert changed.keys() == expected.keys()
    for key, value in expected.items():
        assert changed[key] == (pytest.approx(value) if key.endswith("FACTOR") else value), key


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_where_it_stands_in_the_paper(name):
    text = (Path(__file__).parents[1] / "configs" / PAPER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Table")


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
    """Where table 8 has arrived at table 3's model, which was evaluated with another threshold."""
    one, other = row("table8_iou"), row("table3_fcos_p5_gn")
    assert (one.MODEL.FCOS.NMS_THRESH_TEST, other.MODEL.FCOS.NMS_THRESH_TEST) == (0.5, 0.6)
    one.MODEL.FCOS.NMS_THRESH_TEST = 0.6
    assert one == other


def test_table_6_compares_200_with_66_thousand_samples():
    """Of an image of 800 x 1024 pixels: 68,208 locations on P2-P6, and 3 anchors at each."""
    anchors, locations = 0, 0
    for name in ("table6_rpn", "table6_fcos_rpn"):
        cfg = row(name)
        strides = [2 ** int(level[1:]) for level in cfg.MODEL.RPN.IN_FEATURES]
        cells = sum((800 // stride + (800 % stride > 0)) * (1024 // stride) for stride in strides)
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN":
            shapes = [ShapeSpec(stride=stride) for stride in strides]
            anchors = cells * build_anchor_generator(cfg, shapes).num_anchors[0]
        else:
            locations = cells
    assert (anchors, locations) == (204_624, 68_208)
