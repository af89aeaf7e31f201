"""Ground truth -> targets, for a batch of images of one size.

Ours and the FCOS peers work on P3-P7. Detectron2's RPN has no center sampling; it matches three anchors per cell on
P2-P6 and samples 256 of them. This takes seconds for a few hundred boxes, so it is measured with small batches only.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.models import detection

from dev.benchmark.inputs import FCOS_STRIDES, RPN_STRIDES, grid_sizes, ground_truth, locations_of
from dev.benchmark.measuring import OURS, Comparison, Setup
from dev.benchmark.peers import anchor_rpn, detectron2_parts
from fcos_rpn.modeling.assigner import FCOSAssigner
from fcos_rpn.modeling.geometry import Locations

SIZE, QUICK_SIZE = (800, 1333), (192, 320)
BATCHES, QUICK_BATCHES = (2, 16), (2,)
NUM_BOXES, QUICK_NUM_BOXES = (7, 50, 200, 1000), (7, 50)
NUM_CLASSES = 80
RADII = (1.5, 0.0)
"""With and without center sampling."""
RPN_MOST_BOXES = 400
"""Of a batch."""


def comparisons(setup: Setup) -> Iterator[Comparison]:
    size = QUICK_SIZE if setup.is_quick else SIZE
    locations = locations_of(size, FCOS_STRIDES, setup.device)
    for radius in RADII:
        for batch_size in QUICK_BATCHES if setup.is_quick else BATCHES:
            for num_boxes in QUICK_NUM_BOXES if setup.is_quick else NUM_BOXES:
                gt = ground_truth(batch_size, size, num_boxes=num_boxes, num_classes=NUM_CLASSES, device=setup.device)
                cases = {
                    OURS: our_assignment(locations, gt, radius=radius),
                    "detectron2": detectron2_assignment(locations, gt, radius=radius),
                    "torchvision": torchvision_assignment(locations, gt, radius=radius),
                }
                if radius > 0 and batch_size * num_boxes <= RPN_MOST_BOXES:
                    cases["rpn"] = rpn_assignment(size, gt, setup.device)
                setting = {"radius": f"{radius:g}", "batch": batch_size, "boxes": num_boxes}
                yield Comparison(setting, cases, seconds=30)


def our_assigner(*, num_classes: int, radius: float) -> FCOSAssigner:
    sizes = [8.0 * stride for stride in FCOS_STRIDES.values()]
    return FCOSAssigner(num_classes=num_classes, sizes_of_interest=sizes[:-1], center_sampling_radius=radius)


def our_assignment(
    locations: Locations, gt: Sequence[Instances], *, radius: float, num_classes: int = NUM_CLASSES
) -> Callable[[], Any]:
    assigner = our_assigner(num_classes=num_classes, radius=radius)
    return lambda: assigner(locations, gt)


def detectron2_assignment(locations: Locations, gt: Sequence[Instances], *, radius: float) -> Callable[[], Any]:
    parts = detectron2_parts(FCOS_STRIDES, num_classes=NUM_CLASSES, radius=radius or math.inf)
    anchors = [Boxes(level) for level in cells(locations).split(locations.num_per_level)]
    return lambda: parts.label_anchors(anchors, gt)


def torchvision_assignment(locations: Locations, gt: Sequence[Instances], *, radius: float) -> Callable[[], Any]:
    """The matching is the first half of `FCOS.compute_loss`, which gives the result to the head."""
    head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched_idxs: matched_idxs)
    model: Any = SimpleNamespace(head=head, center_sampling_radius=radius or math.inf)
    anchors = [cells(locations)] * len(gt)
    targets = [{"boxes": instances.gt_boxes.tensor, "labels": instances.gt_classes} for instances in gt]
    return lambda: detection.FCOS.compute_loss(model, targets, {}, anchors, locations.num_per_level)


def rpn_assignment(size: tuple[int, int], gt: list[Instances], device: torch.device) -> Callable[[], Any]:
    rpn = anchor_rpn(device)
    maps = [torch.empty(0, 0, *grid, device=device) for grid in grid_sizes(size, RPN_STRIDES)]
    anchors = rpn.anchor_generator(maps)
    return lambda: rpn.label_and_sample_anchors(anchors, gt)


def cells(locations: Locations) -> Tensor:
    """(R, 4) boxes of the stride's size around the locations, which the peers use as anchors."""
    half = locations.strides[:, None] / 2
    return torch.cat([locations.points - half, locations.points + half], dim=1)
