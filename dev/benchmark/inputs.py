"""Images, ground truth and boxes: random, but the same for the same arguments."""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import Tensor

from fcos_rpn.modeling.geometry import Locations, compute_locations

SEED = 0
FCOS_STRIDES = {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
RPN_STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
"""The pyramids, level -> stride in pixels, of one-stage FCOS and of the RPN."""


def random_boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw (count, 4) boxes in pixels in an image of that height and width. Their sides are 1/40 to 1/2 of the image's,
    uniform on a logarithmic scale, since there are more small objects than large ones."""
    height, width = size
    scale = torch.tensor([width, height])
    sides = scale * torch.exp(torch.empty(count, 2).uniform_(-3.7, -0.7, generator=generator))
    low = torch.rand(count, 2, generator=generator) * (scale - sides)
    return torch.cat([low, low + sides], dim=1)


def ground_truth(
    num_images: int, size: tuple[int, int], *, num_boxes: int, num_classes: int, device: torch.device
) -> list[Instances]:
    generator = torch.Generator().manual_seed(SEED)
    return [
        Instances(
            size,
            gt_boxes=Boxes(random_boxes(num_boxes, size, generator)),
            gt_classes=torch.randint(num_classes, (num_boxes,), generator=generator),
        ).to(device)
        for _ in range(num_images)
    ]


def batch(num_images: int, size: tuple[int, int], *, num_boxes: int, device: torch.device) -> list[dict[str, Any]]:
    """Make Detectron2's inputs on the device: noise, and ground truth of 80 classes."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randint(256, (num_images, 3, *size), generator=generator).float().to(device)
    found = ground_truth(num_images, size, num_boxes=num_boxes, num_classes=80, device=device)
    return [
        {"image": image, "instances": instances, "height": size[0], "width": size[1]}
        for image, instances in zip(images, found, strict=True)
    ]


def grid_sizes(size: tuple[int, int], strides: Mapping[str, int]) -> list[tuple[int, int]]:
    """(Hi, Wi) of each level for an image of that height and width, padded to multiples of 32 as models do."""
    height, width = (-(-side // 32) * 32 for side in size)
    return [(-(-height // stride), -(-width // stride)) for stride in strides.values()]


def locations_of(size: tuple[int, int], strides: Mapping[str, int], device: torch.device) -> Locations:
    return compute_locations(grid_sizes(size, strides), list(strides.values()), device=device)


class Pyramid(Backbone):
    """A backbone with names, strides and channels of levels, but without maps."""

    def __init__(self, strides: Mapping[str, int], channels: int = 256) -> None:
        super().__init__()
        self.shapes = {name: ShapeSpec(channels=channels, stride=stride) for name, stride in strides.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError("a pyramid without maps")

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.shapes
