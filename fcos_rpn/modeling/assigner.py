"""Assign ground-truth boxes to locations (paper, sections 3.1 and 3.2; center sampling of the journal version).

A location is a candidate for a box if all three hold:

1. it lies strictly inside the box,
2. it lies strictly inside the sampling box: `radius` strides around the center, clipped to the box,
3. the largest of its four distances lies in the range of its level, both ends included.

Of several candidates the smallest box wins, the one of the lower index on equal areas. Everything else is background.

Shapes: N images, L levels, R = Σ Hi·Wi locations (level-major, then row-major), M boxes of all images together,
P positives. Coordinates are pixels of the network's input image.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..errors import ArgumentError
from .geometry import Locations, encode_boxes

MAX_BYTES_AT_ONCE = 1 << 20
"""Limits the largest tensor of boxes × cells. More boxes are processed in chunks, so that memory does not grow."""

MAX_BYTES_ON_GPUS = 1 << 26
"""The same on GPUs, where the host waits for each chunk and memory is not cached."""


class FCOSTargets(NamedTuple):
    """The training targets of all locations."""

    labels: Tensor
    """(N, R) int64 in [0, C]; C is background."""
    positives: Tensor
    """(P,) int64 indices into the flattened (N·R), ascending."""
    box_idxs: Tensor
    """(P,) int64 the box that each of them learns: a row of its image's ground truth."""
    ltrb: Tensor
    """(P, 4) distances of the positives to the sides of their boxes, > 0, in strides."""

    @property
    def matched_idxs(self) -> Tensor:
        """(N, R) int64 row of the image's ground truth; -1 is background."""
        matched_idxs = torch.full_like(self.labels, -1)
        matched_idxs.view(-1)[self.positives] = self.box_idxs
        return matched_idxs


def default_sizes_of_interest(strides: Sequence[int]) -> list[float]:
    """Return 8 × stride of all levels but the last, in pixels: the paper's sizes on P3–P7."""
    return [8.0 * stride for stride in strides[:-1]]


class FCOSAssigner:
    """Assigns ground-truth boxes to locations; has no parameters and no state.

    Containment and distance separate into columns and rows of a level's grid, so a box is compared with a few columns
    and a few rows, never with all R locations. With center sampling these are the 2·(⌊radius⌋ + 1) nearest ones.
    """

    def __init__(
        self, *, num_classes: int, sizes_of_interest: Sequence[float], center_sampling_radius: float = 1.5
    ) -> None:
        """
        Args:
            num_classes: C; also the label of the background.
            sizes_of_interest: upper ends m_i of all levels but the last, ascending, in pixels.
            center_sampling_radius: in strides; 0 samples the whole box.

        Raises:
            ArgumentError: if the sizes do not ascend, or the radius is negative.
        """
        if list(sizes_of_interest) != sorted(sizes_of_interest):
            raise ArgumentError("sizes_of_interest", f"must ascend, not {list(sizes_of_interest)}")
        if center_sampling_radius < 0:
            raise ArgumentError("center_sampling_radius", f"must be 0.0 or more, not {center_sampling_radius:g}")
        self.num_classes = num_classes
        self.radius = center_sampling_radius
        self.ranges = list(zip([0.0, *sizes_of_interest], [*sizes_of_interest, math.inf], strict=True))

    @torch.no_grad()
    def __call__(self, locations: Locations, gt_instances: Sequence[Instances]) -> FCOSTargets:
        """
        Args:
            locations: R locations on L levels.
            gt_instances: N instances with `gt_boxes` (pixels) and `gt_classes` (in [0, C)); any may be empty.
        """
        num_images, num_locations = len(gt_instances), len(locations.points)
        boxes = Boxes.cat([instances.gt_boxes for instances in gt_instances]).tensor.to(locations.points)  # (M, 4)
        classes = torch.cat([instances.gt_classes for instances in gt_instances])  # (M,)
        rows = torch.cat([torch.arange(len(instances), device=boxes.device) for instances in gt_instances])  # (M,)
        image_idxs = torch.cat([rows.new_full((len(of_image),), n) for n, of_image in enumerate(gt_instances)])  # (M,)

        # All images at once: location r of image n is sample n·R + r.
        candidates = (
            (image_idxs[box_idxs] * num_locations + location_idxs, box_idxs)
            for location_idxs, box_idxs in self._candidates_by_chunk(locations, boxes)
        )
        positives, matched = smallest_candidates(candidates, boxes, num_images * num_locations)

        where = positives % num_locations  # distances first: their intermediate tensors are larger than the labels
        ltrb = encode_boxes(locations.points[where], locations.strides[where], boxes[matched])
        labels = rows.new_full((num_images * num_locations,), self.num_classes)
        labels[positives] = classes[matched]
        return FCOSTargets(
            labels=labels.view(num_images, num_locations), positives=positives, box_idxs=rows[matched], ltrb=ltrb
        )

    def candidates(self, locations: Locations, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Find all pairs of a location and a box that meet the three conditions, before the smallest box wins.

        Args:
            locations: R locations on L levels.
            boxes: (M, 4).

        Returns:
            Two (K,) int64 tensors: location in [0, R), box in [0, M).
        """
        pairs = list(self._candidates_by_chunk(locations, boxes))
        nothing = torch.empty(0, dtype=torch.int64, device=boxes.device)
        location_idxs, box_idxs = zip((nothing, nothing), *pairs, strict=True)
        return torch.cat(location_idxs), torch.cat(box_idxs)

    def _candidates_by_chunk(self, locations: Locations, boxes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield candidate pairs in chunks of boxes."""
        if len(locations.grid_sizes) != len(self.ranges):
            raise ValueError(f"{len(self.ranges)} ranges of sizes for {len(locations.grid_sizes)} levels")
        window = (2 * (math.floor(self.radius) + 1)) ** 2
        # Cells of a window are int64 indices, those of the whole grid a mask.
        bytes_per_box = 8 * window * len(self.ranges) if self.radius > 0 else len(locations.points)
        max_bytes = MAX_BYTES_AT_ONCE if boxes.device.type == "cpu" else MAX_BYTES_ON_GPUS
        chunk_size = max(1, max_bytes // bytes_per_box)
        for start in range(0, len(boxes), chunk_size):
            location_idxs, box_idxs = self._candidates_at_once(locations, boxes[start : start + chunk_size])
            yield location_idxs, start + box_idxs

    def _candidates_at_once(self, locations: Locations, boxes: Tensor) -> tuple[Tensor, Tensor]:
        x0, y0, x1, y1 = boxes.split(1, dim=1)  # (m, 1)
        x, y = (x0, (x0 + x1) / 2, x1), (y0, (y0 + y1) / 2, y1)
        levels = [self._look_at_level(locations, level, x, y) for level in range(len(self.ranges))]
        cells, are_candidates = (torch.cat(part, dim=1) for part in zip(*levels, strict=True))
        # The host waits for a GPU here, to know how many there are: once, not once per level.
        box_idxs, cell = are_candidates.nonzero(as_tuple=True)
        return cells.expand(len(boxes), -1)[box_idxs, cell], box_idxs

    def _look_at_level(
        self, locations: Locations, level: int, x: tuple[Tensor, ...], y: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Compare m boxes with cells of one level; x and y are (m, 1) low sides, centers and high sides.

        Returns:
            (m, g) locations in [0, R) that each box is compared with, or (1, g) if they are the same for all boxes;
            and (m, g) whether each is a candidate.
        """
        height, width = locations.grid_sizes[level]
        first = sum(locations.num_per_level[:level])
        points = locations.points[first : first + height * width].view(height, width, 2)
        stride = locations.strides[first]
        lower, upper = self.ranges[level]

        columns, is_inside_x, distance_x = self._along_axis(points[0, :, 0], stride, *x)
        rows, is_inside_y, distance_y = self._along_axis(points[:, 0, 1], stride, *y)
        is_inside = is_inside_y[:, :, None] & is_inside_x[:, None, :]  # (m, h, w)
        distance = torch.maximum(distance_y[:, :, None], distance_x[:, None, :])
        is_in_range = (distance >= lower) & (distance <= upper)
        location_idxs = first + rows[:, :, None] * width + columns[:, None, :]
        return location_idxs.flatten(1), (is_inside & is_in_range).flatten(1)

    def _along_axis(
        self, points: Tensor, stride: Tensor, low: Tensor, center: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compare one axis of a level's grid with m boxes.

        Args:
            points: (G,) coordinates of the grid's lines.
            stride: () their distance.
            low, center, high: (m, 1) of the boxes.

        Returns:
            Indices of the g lines looked at, (m, g), or (1, g) if they are the same for all boxes; (m, g) whether each
            lies inside the box and the sampling box; (m, g) its distance to the farther side.
        """
        if self.radius > 0:
            # A line within r strides of the center is one of the ⌊r⌋ + 1 next below it or the ⌊r⌋ + 1 next above.
            reach = math.floor(self.radius) + 1
            nearest = ((center - points[0]) / stride).floor().clamp(-reach, len(points) + reach).long()
            lines = nearest + torch.arange(1 - reach, 1 + reach, device=points.device)  # (m, 2·reach)
            is_on_grid = (lines >= 0) & (lines < len(points))
            lines = lines.clamp(0, len(points) - 1)
            sampling_low = torch.maximum(low, center - self.radius * stride)
            sampling_high = torch.minimum(high, center + self.radius * stride)
        else:
            lines = torch.arange(len(points), device=points.device)[None]
            is_on_grid = torch.ones_like(lines, dtype=torch.bool)
            sampling_low, sampling_high = low, high
        at = points[lines]
        is_inside = is_on_grid & (at > sampling_low) & (at < sampling_high)
        return lines, is_inside, torch.maximum(at - low, high - at)


def smallest_candidates(
    candidates: Iterable[tuple[Tensor, Tensor]], boxes: Tensor, num_samples: int
) -> tuple[Tensor, Tensor]:
    """Choose the smallest candidate box of each sample, the one of the lower index on equal areas.

    Args:
        candidates: chunks of pairs of a sample in [0, num_samples) and a box in [0, M), as two (K,) int64 tensors.
        boxes: (M, 4).
        num_samples: locations of all images together.

    Returns:
        Two (P,) int64 tensors: the samples that have a candidate, ascending, and the box that each of them learns.
    """
    rank_to_box = _by_area(boxes)
    ranks = torch.empty_like(rank_to_box).scatter_(0, rank_to_box, torch.arange(len(boxes), device=boxes.device))
    best_ranks = ranks.new_full((num_samples,), len(boxes))
    for sample_idxs, box_idxs in candidates:
        best_ranks.scatter_reduce_(0, sample_idxs, ranks[box_idxs], "amin")
    positives = (best_ranks < len(boxes)).nonzero().squeeze(1)
    return positives, rank_to_box[best_ranks[positives]]


def _by_area(boxes: Tensor) -> Tensor:
    """Sort (M, 4) boxes by area: (M,) indices, smallest first, lower index first on ties.

    In float32 the areas of large boxes that differ by a few pixels would round to the same number.
    """
    sides = boxes[:, 2:].double() - boxes[:, :2].double()
    return torch.sort(sides.prod(dim=1), stable=True).indices
