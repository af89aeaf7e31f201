"""Locations of a feature pyramid, and boxes relative to them. Pure tensor functions.

Shapes: L levels, R = Σ Hi·Wi locations over all levels (level-major, then row-major), P positives.
All boxes are (x0, y0, x1, y1) and all points (x, y), in pixels of the network's input image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Locations(NamedTuple):
    """The points of the image that belong to the cells of a pyramid (paper, section 3.1)."""

    points: Tensor
    """(R, 2) x, y in pixels."""
    strides: Tensor
    """(R,) the stride of each location's level, in pixels."""
    grid_sizes: tuple[tuple[int, int], ...]
    """(Hi, Wi) of each of the L levels."""

    @property
    def num_per_level(self) -> list[int]:
        """Return the numbers of locations of the L levels; their sum is R."""
        return [height * width for height, width in self.grid_sizes]


def compute_locations(
    grid_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    offset: float = 0.5,
    device: torch.device | str | None = None,
) -> Locations:
    """Map each cell (x, y) of each level to the pixel (⌊offset·s⌋ + x·s, ⌊offset·s⌋ + y·s) (paper, section 3.1).

    Args:
        grid_sizes: (Hi, Wi) of each level.
        strides: s of each level, in pixels.
        offset: position of a location in its cell; .5 is the paper's ⌊s/2⌋, 0 the upper left corner.
        device: device of the tensors.
    """
    points, point_strides = [], []
    for (height, width), stride in zip(grid_sizes, strides, strict=True):
        first = int(offset * stride)
        x = torch.arange(width, device=device, dtype=torch.float32) * stride + first
        y = torch.arange(height, device=device, dtype=torch.float32) * stride + first
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([columns, rows], dim=2).flatten(end_dim=1))  # (Hi·Wi, 2)
        point_strides.append(x.new_full((height * width,), stride))
    return Locations(
        points=torch.cat(points),
        strides=torch.cat(point_strides),
        grid_sizes=tuple((height, width) for height, width in grid_sizes),
    )


def encode_boxes(points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """Compute distances from points to the sides of boxes, in strides (paper, equation 1, divided by the stride).

    Args:
        points: (..., 2) pixels.
        strides: (...) pixels.
        boxes: (..., 4) pixels.

    Returns:
        (..., 4) left, top, right, bottom in strides; negative where the point lies outside the box.
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1) / strides[..., None]


def decode_boxes(points: Tensor, strides: Tensor, ltrb: Tensor) -> Tensor:
    """Invert `encode_boxes`. Predictions leave stride units only here.

    Args:
        points: (..., 2) pixels.
        strides: (...) pixels.
        ltrb: (..., 4) in strides.

    Returns:
        (..., 4) boxes in pixels.
    """
    distances = ltrb * strides[..., None]
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def compute_centerness(ltrb: Tensor) -> Tensor:
    """Compute how central a location lies in its box (paper, equation 3); any unit of length.

    Args:
        ltrb: (..., 4) of locations inside their boxes; outside, the root is not real.

    Returns:
        (...) in [0, 1]; 1 at the center, 0 on the sides and in boxes of no size.
    """
    left, top, right, bottom = ltrb.unbind(dim=-1)
    tiny = torch.finfo(ltrb.dtype).tiny
    horizontal = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=tiny)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=tiny)
    return torch.sqrt(horizontal * vertical)
