"""The names that each implementation gives its weights: its own on the left, those of the one-stage role on the right.

`fcos_rpn.checkpoint.checkpointer.RENAMES` leads on to the other role.
"""

from collections.abc import Callable

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from ...errors import UserError
from .renames import Drop, Fill, Rename, Rule, Stack, keep

Change = Callable[[Tensor], Tensor]

NUM_TORCHVISION_CLASSES = 91
COCO_IDS = [category["id"] for category in COCO_CATEGORIES if category["isthing"]]
"""Ids of the 80 classes in Detectron2's order; torchvision has a class for each id from 0 (background) to 90."""

MOST_CONVS = 16
"""Of a tower of mmdetection, which numbers convolutions where others number layers."""

FROZEN_BN_EPS = 1e-5
"""Added to the variance by Detectron2's frozen batch normalization, but not by the original's."""


def _coco_classes(weight: Tensor) -> Tensor:
    """Pick COCO's classes, which are rows: (91, ...) -> (80, ...)."""
    if len(weight) != NUM_TORCHVISION_CLASSES:
        raise UserError(
            f"torchvision's class layer has {len(weight)} rows; only COCO's {NUM_TORCHVISION_CLASSES} ids (0, the "
            "background, to 90) can be converted"
        )
    return weight[COCO_IDS].clone()


def _without_eps(variance: Tensor) -> Tensor:
    return variance - FROZEN_BN_EPS


def _resnet(body: str, stem: str, *, variance: Change | None = None) -> tuple[Rule, ...]:
    """Translate torchvision's names of a ResNet.

    Args:
        body, stem: prefixes of the stages and of the stem.
        variance: applied to the running variances.
    """
    ours = "backbone.bottom_up."
    stages = {"stage": {"1": "2", "2": "3", "3": "4", "4": "5"}}
    block, our_block = body + "layer{stage}.{block}.", ours + "res{stage}.{block}."
    norms = [
        (stem + "bn1.", ours + "stem.conv1.norm."),
        (block + "bn{number}.", our_block + "conv{number}.norm."),
        (block + "downsample.1.", our_block + "shortcut.norm."),
    ]
    return (
        Rename(stem + "conv1.weight", ours + "stem.conv1.weight"),
        Rename(block + "conv{number}.weight", our_block + "conv{number}.weight", stages),
        Rename(block + "downsample.0.weight", our_block + "shortcut.weight", stages),
        # Before the next line, since the first rule that fits is taken.
        *(Rename(theirs + "running_var", our + "running_var", stages, variance) for theirs, our in norms),
        *(Rename(theirs + "{statistic}", our + "{statistic}", stages) for theirs, our in norms),
    )


def _pyramid(lateral: str, output: str, levels: tuple[str, str, str]) -> tuple[Rule, ...]:
    """Translate the 1 x 1 and the 3 x 3 convolutions of P3, P4 and P5, whose levels the source calls `levels`."""
    words = {"level": dict(zip(levels, ("3", "4", "5"), strict=True))}
    return (
        Rename(lateral + ".{part}", "backbone.fpn_lateral{level}.{part}", words),
        Rename(output + ".{part}", "backbone.fpn_output{level}.{part}", words),
    )


def _towers(cls_tower: str, bbox_tower: str) -> tuple[Rule, ...]:
    """Translate towers whose layers are numbered as here."""
    return (
        Rename(cls_tower + ".{layer}.{part}", "core.head.cls_tower.{layer}.{part}"),
        Rename(bbox_tower + ".{layer}.{part}", "core.head.bbox_tower.{layer}.{part}"),
    )


def _tower_of_modules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Translate a tower of mmdetection, where a convolution, its norm and its ReLU are one module instead of three."""
    convs = {str(number): str(3 * number) for number in range(MOST_CONVS)}
    norms = {str(number): str(3 * number + 1) for number in range(MOST_CONVS)}
    return (
        Rename(theirs + ".{layer}.conv.{part}", ours + ".{layer}.{part}", {"layer": convs}),
        Rename(theirs + ".{layer}.gn.{part}", ours + ".{layer}.{part}", {"layer": norms}),
    )


def _predictors(cls_logits: str, bbox_pred: str, centerness: str, *, classes: Change | None = None) -> tuple[Rule, ...]:
    """Translate the last layers.

    Args:
        cls_logits, bbox_pred, centerness: the source's names.
        classes: applied to the layer whose rows are classes.
    """
    return (
        Rename(cls_logits + ".{part}", "core.head.cls_logits.{part}", change=classes),
        Rename(bbox_pred + ".{part}", "core.head.bbox_pred.{part}"),
        Rename(centerness + ".{part}", "core.head.centerness.{part}"),
    )


COUNTER = Drop("{module}.num_batches_tracked", "a counter that a frozen batch normalization does without")

DETECTRON2_BACKBONE = (
    keep("backbone.bottom_up.stem.conv1.weight"),
    keep("backbone.bottom_up.stem.conv1.norm.{statistic}"),
    keep("backbone.bottom_up.res{stage}.{block}.conv{number}.weight"),
    keep("backbone.bottom_up.res{stage}.{block}.conv{number}.norm.{statistic}"),
    keep("backbone.bottom_up.res{stage}.{block}.shortcut.weight"),
    keep("backbone.bottom_up.res{stage}.{block}.shortcut.norm.{statistic}"),
    keep("backbone.fpn_lateral{level}.{part}"),
    keep("backbone.fpn_output{level}.{part}"),
    keep("backbone.top_block.p{level}.{part}"),
    Drop("pixel_mean", "a setting, which goes into the config as MODEL.PIXEL_MEAN"),
    Drop("pixel_std", "a setting, which goes into the config as MODEL.PIXEL_STD"),
    COUNTER,
)

RULES: dict[str, tuple[Rule, ...]] = {
    "original": (
        *_resnet("backbone.body.", "backbone.body.stem.", variance=_without_eps),
        *_pyramid("backbone.fpn.fpn_inner{level}", "backbone.fpn.fpn_layer{level}", ("2", "3", "4")),
        Rename("backbone.fpn.top_blocks.p{level}.{part}", "backbone.top_block.p{level}.{part}"),
        *_towers("rpn.head.cls_tower", "rpn.head.bbox_tower"),
        *_predictors("rpn.head.cls_logits", "rpn.head.bbox_pred", "rpn.head.centerness"),
        Stack("rpn.head.scales.{level}.scale", "core.head.scales"),
    ),
    "adelaidet": (
        *DETECTRON2_BACKBONE,
        *_towers("proposal_generator.fcos_head.cls_tower", "proposal_generator.fcos_head.bbox_tower"),
        *_predictors(
            "proposal_generator.fcos_head.cls_logits",
            "proposal_generator.fcos_head.bbox_pred",
            "proposal_generator.fcos_head.ctrness",
        ),
        Stack("proposal_generator.fcos_head.scales.{level}.scale", "core.head.scales"),
    ),
    "torchvision": (
        *_resnet("backbone.body.", "backbone.body."),
        COUNTER,
        *_pyramid("backbone.fpn.inner_blocks.{level}.0", "backbone.fpn.layer_blocks.{level}.0", ("0", "1", "2")),
        # Files from before its pyramid could have normalizations.
        *_pyramid("backbone.fpn.inner_blocks.{level}", "backbone.fpn.layer_blocks.{level}", ("0", "1", "2")),
        Rename("backbone.fpn.extra_blocks.p{level}.{part}", "backbone.top_block.p{level}.{part}"),
        *_towers("head.classification_head.conv", "head.regression_head.conv"),
        *_predictors(
            "head.classification_head.cls_logits",
            "head.regression_head.bbox_reg",
            "head.regression_head.bbox_ctrness",
            classes=_coco_classes,
        ),
    ),
    "detectron2": (
        *DETECTRON2_BACKBONE,
        Drop("anchor_generator.cell_anchors.{level}", "the anchors that stand for locations there"),
        *_towers("head.cls_subnet", "head.bbox_subnet"),
        *_predictors("head.cls_score", "head.bbox_pred", "head.ctrness"),
    ),
    "mmdetection": (
        *_resnet("backbone.", "backbone."),
        COUNTER,
        *_pyramid("neck.lateral_convs.{level}.conv", "neck.fpn_convs.{level}.conv", ("0", "1", "2")),
        Rename(
            "neck.fpn_convs.{level}.conv.{part}",
            "backbone.top_block.p{level}.{part}",
            {"level": {"3": "6", "4": "7"}},
        ),
        *_tower_of_modules("bbox_head.cls_convs", "core.head.cls_tower"),
        *_tower_of_modules("bbox_head.reg_convs", "core.head.bbox_tower"),
        *_predictors("bbox_head.conv_cls", "bbox_head.conv_reg", "bbox_head.conv_centerness"),
        Stack("bbox_head.scales.{level}.scale", "core.head.scales"),
    ),
}
"""Source -> its names; the first rule that fits a key is taken."""

FILLS: dict[str, tuple[Fill, ...]] = {
    source: (Fill("core.head.scales", 1.0, "this source has no factors of the levels, and ones change nothing"),)
    for source in ("torchvision", "detectron2")
}
"""Source -> what it lacks."""

OWN_RULES: tuple[Rule, ...] = (
    Drop("roi_heads.{module}", "RoI heads, which neither the one-stage role nor the proposal generator has"),
    keep("{module}"),
)
"""For this package's checkpoints; `RENAMES` translates the prefix in which the roles differ."""
