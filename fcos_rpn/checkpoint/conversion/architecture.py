"""Reads the settings of a model from the shapes of its weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import UserError

DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
"""(blocks of each stage, whether they are bottlenecks) -> depth of the ResNet."""

GROWN_FROM_P5 = "build_p5_p67_resnet_fpn_backbone"
GROWN_FROM_C5 = "build_retinanet_resnet_fpn_backbone"
"""Pyramids whose P6 and P7 come from P5, or from C5 as in Detectron2's RetinaNet."""

SHARED_TOWER, CLS_TOWER = "core.head.shared_tower.", "core.head.cls_tower."
TOWERS = (SHARED_TOWER, CLS_TOWER, "core.head.bbox_tower.")


def read_architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read config keys and values from weights.

    Args:
        weights: of a ResNet, a pyramid and a head, under the names of the one-stage role.

    Returns:
        Config key -> value.

    Raises:
        UserError: if it is no such model.
    """
    return {**_resnet(weights), **_pyramid(weights), **_head(weights)}


def needless_biases(weights: Mapping[str, Tensor]) -> list[str]:
    """List the biases before the towers' normalizations; none if one of them is not zero."""
    keys = _tower_biases(weights) if _is_normalized(weights) else []
    return [] if any(weights[key].any() for key in keys) else keys


def _resnet(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    prefix = "backbone.bottom_up."
    stages = [
        {key.split(".")[3] for key in weights if key.startswith(f"{prefix}res{stage}.")} for stage in (2, 3, 4, 5)
    ]
    is_bottleneck = f"{prefix}res2.0.conv3.weight" in weights
    num_blocks = tuple(map(len, stages))
    depth = DEPTHS.get((num_blocks, is_bottleneck))
    if depth is None:
        raise UserError(f"the backbone is no known ResNet: its stages have {', '.join(map(str, num_blocks))} blocks")
    inner = _shape(weights, f"{prefix}res2.0.conv2.weight")
    num_groups = inner[0] // inner[1] if is_bottleneck else 1
    return {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": num_groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": inner[0] // num_groups,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": _shape(weights, f"{prefix}stem.conv1.weight")[0],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": _shape(weights, f"{prefix}res2.0.conv{3 if is_bottleneck else 2}.weight")[0],
    }


def _pyramid(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    channels = _shape(weights, "backbone.fpn_lateral5.weight")[0]
    is_from_p5 = _shape(weights, "backbone.top_block.p6.weight")[1] == channels
    return {
        "MODEL.BACKBONE.NAME": GROWN_FROM_P5 if is_from_p5 else GROWN_FROM_C5,
        "MODEL.FPN.OUT_CHANNELS": channels,
    }


def _head(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "MODEL.FCOS.NUM_CLASSES": _shape(weights, "core.head.cls_logits.weight")[0],
        "MODEL.FCOS.NUM_CONVS": _depth(weights, CLS_TOWER),
        "MODEL.FCOS.NORM": "GN" if _is_normalized(weights) else "",
    }
    if _is_normalized(weights) and _tower_biases(weights):
        settings["MODEL.FCOS.TOWER_BIAS"] = True
    if num_shared_convs := _depth(weights, SHARED_TOWER):
        settings["MODEL.FCOS.NUM_SHARED_CONVS"] = num_shared_convs
    return settings


def _depth(weights: Mapping[str, Tensor], tower: str) -> int:
    """Count the convolutions of a tower."""
    return sum(key.startswith(tower) and value.ndim == 4 for key, value in weights.items())


def _is_normalized(weights: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(TOWERS) and key.endswith(".weight") and value.ndim == 1 for key, value in weights.items())


def _tower_biases(weights: Mapping[str, Tensor]) -> list[str]:
    """List the biases of the towers' convolutions."""
    convolutions = [key for key, value in weights.items() if key.startswith(TOWERS) and value.ndim == 4]
    biases = [key.removesuffix("weight") + "bias" for key in convolutions]
    return [key for key in biases if key in weights]


def _shape(weights: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in weights:
        raise UserError(f"the checkpoint has nothing that would become {key}: is it a whole model's?")
    return tuple(weights[key].shape)
