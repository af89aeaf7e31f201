"""What a Faster R-CNN can be made of: a proposal generator and remedies, by which FCOS proposals might gain it more."""

from collections.abc import Sequence
from typing import Any

from dev.experiment.system import System
from fcos_rpn.errors import UserError

GENERATORS = {
    "rpn": System("anchor RPN", "evidence/faster_rcnn_rpn.yaml"),
    "fcos_rpn": System("FCOSRPN", "evidence/faster_rcnn_fcos_rpn.yaml"),
    "rpn_P2P6": System("anchor RPN on P2-P6", "evidence/faster_rcnn_rpn_P2P6.yaml"),
    "fcos": System("one-stage FCOS", "evidence/fcos.yaml"),
}
"""What remedies are added to."""

WITHOUT_REMEDIES = ("rpn_P2P6", "fcos")
"""Generators that are there for comparison alone."""

FUSED = ["MODEL.ROI_HEADS.NAME", "FusedScoreROIHeads"]
REMEDIES: dict[str, tuple[str, Sequence[Any]]] = {
    "p2": (
        "RoI heads pool from P2-P5",
        [
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
        ],
    ),
    "iou6": ("RoI IoU threshold .6", ["MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.6]]),
    "nms9": (
        "256 proposals after NMS at .9",
        [
            *("MODEL.RPN.NMS_THRESH", 0.9),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 256),
            *("MODEL.RPN.POST_NMS_TOPK_TEST", 256),
        ],
    ),
    "weight3": ("proposals' losses times .3", ["MODEL.RPN.LOSS_WEIGHT", 0.3]),
    "weight1": ("proposals' losses times .1", ["MODEL.RPN.LOSS_WEIGHT", 0.1]),
    "agnostic": ("class-agnostic box regression", ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]),
    "warm": ("starts from one-stage FCOS", []),
    "fused": ("fused scores", FUSED),
    "fused2": ("fused scores, temperature 2", [*FUSED, "MODEL.ROI_HEADS.OBJECTNESS_TEMPERATURE", 2.0]),
}
"""Name -> in words, and KEY, VALUE, ..."""

HEADS: dict[str, tuple[str, Sequence[Any]]] = {
    "convs2": ("towers of 2 convolutions", ["MODEL.FCOS.NUM_CONVS", 2]),
    "convs1": ("towers of 1 convolution", ["MODEL.FCOS.NUM_CONVS", 1]),
    "shared4": ("one tower of 4 convolutions", ["MODEL.FCOS.NUM_CONVS", 0, "MODEL.FCOS.NUM_SHARED_CONVS", 4]),
    "shared1": ("one tower of 1 convolution", ["MODEL.FCOS.NUM_CONVS", 0, "MODEL.FCOS.NUM_SHARED_CONVS", 1]),
}
"""Not to gain AP but time, and FCOSRPN's alone; named and given as remedies are."""

NOT_SCREENED = ("warm",)
"""A remedy that has the budget of two trainings."""

WITHOUT_TRAINING = ("fused", "fused2")
"""Remedies that change inference alone, so that the weights without them serve."""


def system_of(name: str) -> System:
    """`generator+remedy+remedy`, with `@limit` behind it for another number of proposals at inference.

    Raises:
        UserError: if there is no generator or no remedy of a name.
    """
    named, _, limit = name.partition("@")
    generator, *remedies = named.split("+")
    if generator not in GENERATORS or (remedies and generator in WITHOUT_REMEDIES):
        raise UserError(
            f"--systems {name}: generators are {', '.join(GENERATORS)}; {' and '.join(WITHOUT_REMEDIES)} take no "
            "remedies"
        )
    changes = {**REMEDIES, **HEADS} if generator == "fcos_rpn" else REMEDIES
    if unknown := [remedy for remedy in remedies if remedy not in changes]:
        raise UserError(f"--systems {name}: no remedy {', '.join(unknown)}; there are {', '.join(changes)}")
    plain, trained = GENERATORS[generator], without_remedies_of_inference(named)
    overrides = [value for remedy in remedies for value in changes[remedy][1]]
    if limit:
        overrides += ["MODEL.RPN.POST_NMS_TOPK_TEST", int(limit)]
    return plain._replace(
        title=", ".join([plain.title, *(changes[remedy][0] for remedy in remedies)]) + (limit and f", {limit} boxes"),
        overrides=overrides,
        weights_of=trained if trained != name else "",
        starts_from="fcos" if "warm" in remedies else "",
    )


def without_remedies_of_inference(name: str) -> str:
    generator, *remedies = name.split("+")
    return "+".join([generator, *(remedy for remedy in remedies if remedy not in WITHOUT_TRAINING)])


def screened_systems() -> list[str]:
    """Both generators plain, and each with one remedy."""
    screened = [remedy for remedy in REMEDIES if remedy not in NOT_SCREENED]
    return [
        *("rpn", "fcos_rpn"),
        *(f"{generator}+{remedy}" for remedy in screened for generator in ("rpn", "fcos_rpn")),
    ]
