"""State dicts with exactly the names and shapes of other implementations' FCOS, written out from their documentation.

Every weight holds one number of its own, so that it can be told where it went; biases before a normalization hold 0.
"""

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
STATISTICS = ("weight", "bias", "running_mean", "running_var")

TORCH_RESNET = ("conv1", "bn1", "layer{stage}.{block}", "conv{number}", "bn{number}", "downsample.0", "downsample.1")
DETECTRON2_RESNET = (
    *("stem.conv1", "stem.conv1.norm", "res{next_stage}.{block}", "conv{number}", "conv{number}.norm"),
    *("shortcut", "shortcut.norm"),
)
"""Names of the stem's convolution and norm, of a block, of its convolutions and norms, and of its shortcut's."""


def original(depth: int = 18, channels: int = 64, num_classes: int = 80) -> dict[str, Tensor]:
    shapes, widths = resnet(TORCH_RESNET, "backbone.body.", "backbone.body.stem.", depth)
    for level, width in zip((2, 3, 4), widths, strict=True):
        shapes |= conv(f"backbone.fpn.fpn_inner{level}", channels, width, 1)
        shapes |= conv(f"backbone.fpn.fpn_layer{level}", channels, channels)
    shapes |= conv("backbone.fpn.top_blocks.p6", channels, channels)
    shapes |= conv("backbone.fpn.top_blocks.p7", channels, channels)
    shapes |= head("rpn.head.{}", "centerness", channels, num_classes)
    shapes |= {f"rpn.head.scales.{level}.scale": (1,) for level in range(5)}
    return numbered(shapes)


def adelaidet(depth: int = 18, channels: int = 64, num_classes: int = 80) -> dict[str, Tensor]:
    shapes = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1), **detectron2_backbone(depth, channels)}
    shapes |= head("proposal_generator.fcos_head.{}", "ctrness", channels, num_classes)
    shapes |= {f"proposal_generator.fcos_head.scales.{level}.scale": (1,) for level in range(5)}
    weights = numbered(shapes)
    weights["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    weights["pixel_std"] = torch.ones(3, 1, 1)
    return weights


def detectron2(depth: int = 18, channels: int = 64, num_classes: int = 80) -> dict[str, Tensor]:
    shapes = detectron2_backbone(depth, channels)
    shapes |= tower("head.cls_subnet", channels) | tower("head.bbox_subnet", channels)
    shapes |= conv("head.cls_score", num_classes, channels) | conv("head.bbox_pred", 4, channels)
    shapes |= conv("head.ctrness", 1, channels)
    return numbered(shapes)


def torchvision(depth: int = 18, channels: int = 64, num_classes: int = 91, layer: str = ".0") -> dict[str, Tensor]:
    """`layer` is "" in files of old versions."""
    shapes, widths = resnet(TORCH_RESNET, "backbone.body.", "backbone.body.", depth, with_counters=True)
    for level, width in enumerate(widths):
        shapes |= conv(f"backbone.fpn.inner_blocks.{level}{layer}", channels, width, 1)
        shapes |= conv(f"backbone.fpn.layer_blocks.{level}{layer}", channels, channels)
    shapes |= conv("backbone.fpn.extra_blocks.p6", channels, channels)
    shapes |= conv("backbone.fpn.extra_blocks.p7", channels, channels)
    shapes |= tower("head.classification_head.conv", channels) | tower("head.regression_head.conv", channels)
    shapes |= conv("head.classification_head.cls_logits", num_classes, channels)
    shapes |= conv("head.regression_head.bbox_reg", 4, channels) | conv(
        "head.regression_head.bbox_ctrness", 1, channels
    )
    return numbered(shapes)


def mmdetection(
    depth: int = 18, channels: int = 64, num_classes: int = 80, *, with_biases: bool = True
) -> dict[str, Tensor]:
    """With biases in the towers as its improved recipe has them; the plain one has none."""
    shapes, widths = resnet(TORCH_RESNET, "backbone.", "backbone.", depth, with_counters=True)
    for level, width in enumerate(widths):
        shapes |= conv(f"neck.lateral_convs.{level}.conv", channels, width, 1)
    for level in range(5):
        shapes |= conv(f"neck.fpn_convs.{level}.conv", channels, channels)
    for side in ("cls_convs", "reg_convs"):
        for number in range(4):
            shapes[f"bbox_head.{side}.{number}.conv.weight"] = (channels, channels, 3, 3)
            if with_biases:
                shapes[f"bbox_head.{side}.{number}.conv.bias"] = (channels,)
            shapes[f"bbox_head.{side}.{number}.gn.weight"] = (channels,)
            shapes[f"bbox_head.{side}.{number}.gn.bias"] = (channels,)
    shapes |= conv("bbox_head.conv_cls", num_classes, channels) | conv("bbox_head.conv_reg", 4, channels)
    shapes |= conv("bbox_head.conv_centerness", 1, channels)
    shapes |= {f"bbox_head.scales.{level}.scale": () for level in range(5)}
    return numbered(shapes)


MAKERS = {
    "original": original,
    "adelaidet": adelaidet,
    "torchvision": torchvision,
    "detectron2": detectron2,
    "mmdetection": mmdetection,
}


def numbered(shapes: Shapes) -> dict[str, Tensor]:
    weights = {key: torch.full(shape, float(number)) for number, (key, shape) in enumerate(shapes.items(), start=1)}
    for key, weight in weights.items():
        if is_tower_bias(key):
            weight.zero_()
    return weights


def randomized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names with weights on which a forward pass stays finite; biases before a normalization stay 0."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for key, weight in weights.items():
        if is_tower_bias(key) or key.startswith("pixel_"):
            found[key] = weight
        elif key.endswith("running_var") or (key.endswith("weight") and weight.ndim == 1) or "scales" in key:
            found[key] = torch.ones_like(weight)
        else:
            found[key] = torch.randn(weight.shape, generator=generator) * 0.05
    return found


def is_tower_bias(key: str) -> bool:
    """Layers of a tower are a convolution, its normalization, a ReLU, and so on; or modules of mmdetection."""
    if not key.endswith(".bias"):
        return False
    path = key.split(".")
    if path[-4:-3] in (["cls_convs"], ["reg_convs"]):
        return path[-2] == "conv"
    return path[-3] in ("cls_tower", "bbox_tower", "cls_subnet", "bbox_subnet", "conv") and int(path[-2]) % 3 == 0


def conv(name: str, out_channels: int, in_channels: int, kernel_size: int = 3) -> Shapes:
    return {
        f"{name}.weight": (out_channels, in_channels, kernel_size, kernel_size),
        f"{name}.bias": (out_channels,),
    }


def tower(name: str, channels: int) -> Shapes:
    shapes: Shapes = {}
    for number in (0, 3, 6, 9):
        shapes |= conv(f"{name}.{number}", channels, channels)
        shapes |= {f"{name}.{number + 1}.weight": (channels,), f"{name}.{number + 1}.bias": (channels,)}
    return shapes


def head(name: str, centerness: str, channels: int, num_classes: int) -> Shapes:
    return {
        **tower(name.format("cls_tower"), channels),
        **tower(name.format("bbox_tower"), channels),
        **conv(name.format("cls_logits"), num_classes, channels),
        **conv(name.format("bbox_pred"), 4, channels),
        **conv(name.format(centerness), 1, channels),
    }


def blocks(depth: int) -> list[tuple[int, int, list[tuple[int, int, int]], bool]]:
    """(stage from 1, block, (out, in, kernel size) of each convolution, whether a shortcut projects)."""
    found = []
    channels = 64
    for stage, num_blocks in enumerate(BLOCKS[depth], start=1):
        width = 64 * 2 ** (stage - 1)
        out = 4 * width if depth >= 50 else width
        for block in range(num_blocks):
            wide = [(width, channels, 3), (width, width, 3)]
            deep = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            found.append((stage, block, deep if depth >= 50 else wide, block == 0 and channels != out))
            channels = out
    return found


def resnet(
    names: tuple[str, ...], body: str, stem: str, depth: int, *, with_counters: bool = False
) -> tuple[Shapes, list[int]]:
    """And the channels of its last three stages."""
    stem_conv, stem_norm, block_name, conv_name, norm_name, shortcut, shortcut_norm = names
    shapes: Shapes = {}
    widths = {}

    def add(conv: str, norm: str, out: int, into: int, size: int) -> None:
        shapes[f"{conv}.weight"] = (out, into, size, size)
        shapes.update({f"{norm}.{statistic}": (out,) for statistic in STATISTICS})
        if with_counters:
            shapes[f"{norm}.num_batches_tracked"] = ()

    add(stem + stem_conv, stem + stem_norm, 64, 3, 7)
    for stage, block, convs, projects in blocks(depth):
        prefix = f"{body}{block_name.format(stage=stage, next_stage=stage + 1, block=block)}."
        for number, sizes in enumerate(convs, start=1):
            add(prefix + conv_name.format(number=number), prefix + norm_name.format(number=number), *sizes)
        widths[stage] = convs[-1][0]
        if projects:
            add(prefix + shortcut, prefix + shortcut_norm, widths[stage], convs[0][1], 1)
    return shapes, [widths[2], widths[3], widths[4]]


def detectron2_backbone(depth: int, channels: int) -> Shapes:
    shapes, widths = resnet(DETECTRON2_RESNET, "backbone.bottom_up.", "backbone.bottom_up.", depth)
    for level, width in zip((3, 4, 5), widths, strict=True):
        shapes |= conv(f"backbone.fpn_lateral{level}", channels, width, 1)
        shapes |= conv(f"backbone.fpn_output{level}", channels, channels)
    return (
        shapes | conv("backbone.top_block.p6", channels, channels) | conv("backbone.top_block.p7", channels, channels)
    )
