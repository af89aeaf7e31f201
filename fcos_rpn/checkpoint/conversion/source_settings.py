"""The settings that go with each implementation's weights and cannot be read from them.

The original and mmdetection have two recipes whose weights have the same names and shapes: distances are exp(s·x) in
pixels or ReLU(s·x) in strides, with a factor s of each level. AdelaiDet has only the latter; Detectron2 and torchvision
have it without the factor.
"""

from typing import Any

OWN = "fcos_rpn"
"""The source that is this package."""

LEVELS = ["p3", "p4", "p5", "p6", "p7"]

ROLES: dict[str, dict[str, Any]] = {
    "FCOS": {"MODEL.META_ARCHITECTURE": "FCOS"},
    "FCOSRPN": {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.PROPOSAL_GENERATOR.NAME": "FCOSRPN"},
}

LEVELS_KEY = {"FCOS": "MODEL.FCOS.IN_FEATURES", "FCOSRPN": "MODEL.RPN.IN_FEATURES"}
"""Role -> the key of its levels."""

OF_FCOS_ALONE = (
    "MODEL.FCOS.NUM_CLASSES",
    "MODEL.FCOS.SCORE_THRESH_TEST",
    "MODEL.FCOS.THRESH_ON",
    "MODEL.FCOS.TOPK_CANDIDATES_TEST",
    "MODEL.FCOS.NMS_THRESH_TEST",
    "TEST.DETECTIONS_PER_IMAGE",
)
"""Keys that the RPN role does not read."""

COMMON = {
    "MODEL.MASK_ON": False,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FCOS.LOCATION_OFFSET": 0.5,
    "MODEL.FCOS.USE_SCALE": True,
    "MODEL.FCOS.BBOX_REG_LOSS_WEIGHT_BY": "centerness",
    "MODEL.FCOS.SCORE_FUSION": "geometric",
    "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
    "MODEL.FCOS.THRESH_ON": "class",
    "MODEL.FCOS.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
}

MSRA_RESNET = {
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "INPUT.FORMAT": "BGR",
}
CAFFE_MEAN = {"MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717]}
DETECTRON2_MEAN = {"MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]}
TORCHVISION_RESNET = {
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
}

PLAIN = {
    "MODEL.FCOS.BBOX_ACTIVATION": "exp",
    "MODEL.FCOS.CENTERNESS": "cls",
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0,
    "MODEL.FCOS.BBOX_REG_LOSS_TYPE": "iou",
}
IMPROVED = {
    "MODEL.FCOS.BBOX_ACTIVATION": "relu",
    "MODEL.FCOS.CENTERNESS": "reg",
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 1.5,
    "MODEL.FCOS.BBOX_REG_LOSS_TYPE": "giou",
}
FUSED_THRESHOLD = {
    "MODEL.FCOS.USE_SCALE": False,
    "MODEL.FCOS.BBOX_REG_LOSS_WEIGHT_BY": "none",
    "MODEL.FCOS.SCORE_THRESH_TEST": 0.2,
    "MODEL.FCOS.THRESH_ON": "fused",
}
"""Of Detectron2 and torchvision, which do not weight the box loss either."""

SETTINGS = {
    "original": {**COMMON, **MSRA_RESNET, **CAFFE_MEAN},
    "adelaidet": {**COMMON, **MSRA_RESNET, **DETECTRON2_MEAN},
    "torchvision": {**COMMON, **TORCHVISION_RESNET, **FUSED_THRESHOLD, "MODEL.FCOS.LOCATION_OFFSET": 0.0},
    "detectron2": {**COMMON, **MSRA_RESNET, **DETECTRON2_MEAN, **FUSED_THRESHOLD},
    "mmdetection": {**COMMON, **MSRA_RESNET, "MODEL.FCOS.SCORE_FUSION": "product"},
}
"""Source -> config key -> value, whatever the recipe."""

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "original": {"plain": PLAIN, "improved": IMPROVED},
    "adelaidet": {"improved": IMPROVED},
    "torchvision": {"improved": IMPROVED},
    "detectron2": {"improved": IMPROVED},
    "mmdetection": {
        "plain": {**PLAIN, **CAFFE_MEAN, "MODEL.FCOS.NMS_THRESH_TEST": 0.5},
        "improved": {**IMPROVED, **DETECTRON2_MEAN},
    },
}
"""Source -> recipe -> config key -> value."""
