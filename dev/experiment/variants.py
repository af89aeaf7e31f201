"""The systems of the two-stage comparison: a proposal generator, and variants that may let it gain AP."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dev.experiment.system import System
from fcos_rpn.errors import UserError

GENERATORS = {
    "rpn": System("anchor RPN", "faster_rcnn_rpn.yaml"),
    "fcos_rpn": System("FCOSRPN", "faster_rcnn_fcos_rpn.yaml"),
    "rpn_P2P6": System("anchor RPN on P2-P6", "faster_rcnn_rpn_P2P6.yaml"),
    "fcos": System("one-stage FCOS", "fcos.yaml"),
}
WITHOUT_VARIANTS = ("rpn_P2P6", "fcos")


class Variant(NamedTuple):
    """A change of a two-stage system."""

    title: str
    overrides: Sequence[Any] = ()
    """KEY, VALUE, ..."""
    is_trained: bool = True
    """Whether it changes the training; else the weights without it serve."""
    starts_from: str = ""
    """Another system, from whose weights the training starts; so it has the budget of two and is not screened."""


FUSED = ["MODEL.ROI_HEADS.NAME", "FusedScoreROIHeads"]
VARIANTS = {
    "p2": Variant(
        "RoI heads pool from P2-P5",
        [
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
        ],
    ),
    "roi_iou_0.6": Variant("RoI IoU threshold .6", ["MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.6]]),
    "nms_0.9": Variant(
        "256 proposals after NMS at .9",
        [
            *("MODEL.RPN.NMS_THRESH", 0.9),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 256),
            *("MODEL.RPN.POST_NMS_TOPK_TEST", 256),
        ],
    ),
    "loss_weight_0.3": Variant("proposals' losses times .3", ["MODEL.RPN.LOSS_WEIGHT", 0.3]),
    "loss_weight_0.1": Variant("proposals' losses times .1", ["MODEL.RPN.LOSS_WEIGHT", 0.1]),
    "class_agnostic_boxes": Variant(
        "class-agnostic box regression", ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
    ),
    "warm_start": Variant("starts from one-stage FCOS", starts_from="fcos"),
    "fused": Variant("fused scores", FUSED, is_trained=False),
    "fused_temperature_2": Variant(
        "fused scores, temperature 2", [*FUSED, "MODEL.ROI_HEADS.OBJECTNESS_TEMPERATURE", 2.0], is_trained=False
    ),
}
"""Of either generator."""

SMALLER_HEADS = {
    "towers_of_2": Variant("towers of 2 convolutions", ["MODEL.FCOS.NUM_CONVS", 2]),
    "towers_of_1": Variant("towers of 1 convolution", ["MODEL.FCOS.NUM_CONVS", 1]),
    "shared_tower_of_4": Variant(
        "one tower of 4 convolutions", ["MODEL.FCOS.NUM_CONVS", 0, "MODEL.FCOS.NUM_SHARED_CONVS", 4]
    ),
    "shared_tower_of_1": Variant(
        "one tower of 1 convolution", ["MODEL.FCOS.NUM_CONVS", 0, "MODEL.FCOS.NUM_SHARED_CONVS", 1]
    ),
}
"""Of FCOSRPN alone. They save time instead of gaining AP."""


def system_of(name: str) -> System:
    """`generator+variant+variant`, with `@limit` behind it for another number of proposals at inference.

    Raises:
        UserError: if there is no generator or no variant of a name.
    """
    named, _, limit = name.partition("@")
    generator, *chosen = named.split("+")
    of_generator = {**VARIANTS, **(SMALLER_HEADS if generator == "fcos_rpn" else {})}
    known = {} if generator in WITHOUT_VARIANTS else of_generator
    if generator not in GENERATORS or not known.keys() >= set(chosen):
        variants_of = ", ".join(known) or "none"
        raise UserError(
            f"--systems {name}: generators are {', '.join(GENERATORS)}; variants of {generator}: {variants_of}"
        )
    plain, trained = GENERATORS[generator], trained_system(named)
    variants = [known[variant] for variant in chosen]
    overrides = [value for variant in variants for value in variant.overrides]
    if limit:
        overrides += ["MODEL.RPN.POST_NMS_TOPK_TEST", int(limit)]
    return plain._replace(
        title=", ".join([plain.title, *(variant.title for variant in variants)]) + (limit and f", {limit} boxes"),
        overrides=overrides,
        weights_of=trained if trained != name else "",
        starts_from="".join(variant.starts_from for variant in variants),
    )


def trained_system(name: str) -> str:
    """The system without its variants of inference, whose weights it takes."""
    generator, *chosen = name.split("+")
    return "+".join(
        [generator, *(variant for variant in chosen if variant not in VARIANTS or VARIANTS[variant].is_trained)]
    )


def screened_systems() -> list[str]:
    """Both generators plain, and each with one variant."""
    screened = [name for name, variant in VARIANTS.items() if not variant.starts_from]
    return [
        *("rpn", "fcos_rpn"),
        *(f"{generator}+{variant}" for variant in screened for generator in ("rpn", "fcos_rpn")),
    ]
