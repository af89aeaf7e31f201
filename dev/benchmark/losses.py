"""Predictions and targets -> gradients of the predictions.

All begin with the same targets and the same predictions, in the layout of a head's convolutions. Reordering them is
part of the time.
"""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from torchvision.models.detection import _utils as torchvision_utils
from torchvision.models.detection.fcos import FCOSHead as TorchvisionHead

from dev.benchmark.assignment import NUM_CLASSES, cells, our_assignment
from dev.benchmark.inputs import FCOS_STRIDES, SEED, ground_truth, locations_of
from dev.benchmark.measuring import OURS, Comparison, Setup
from dev.benchmark.peers import detectron2_parts
from fcos_rpn.modeling.assigner import FCOSTargets
from fcos_rpn.modeling.geometry import Locations
from fcos_rpn.modeling.head import FCOSPredictions
from fcos_rpn.modeling.losses import FCOSLosses

SIZE, QUICK_SIZE = (800, 1333), (320, 544)
BATCHES, QUICK_BATCHES = (2, 16), (2,)
NUM_BOXES = 7
RADIUS = 1.5


class Levels(NamedTuple):
    """Predictions of L levels; leaves of the graph."""

    logits: list[Tensor]
    """(N, C, Hi·Wi)."""
    ltrb: list[Tensor]
    """(N, 4, Hi·Wi) in strides."""
    centerness: list[Tensor]
    """(N, 1, Hi·Wi)."""

    def joined(self) -> FCOSPredictions:
        """As our head returns them."""
        logits, ltrb, centerness = (torch.cat(levels, dim=2).transpose(1, 2) for levels in self)
        return FCOSPredictions(logits, ltrb, centerness.squeeze(-1))

    def by_location(self) -> list[list[Tensor]]:
        """As the peers' heads return them: (N, Hi·Wi, K) of each level, copied into this order."""
        return [[level.transpose(1, 2).contiguous() for level in levels] for levels in self]


def comparisons(setup: Setup) -> Iterator[Comparison]:
    size = QUICK_SIZE if setup.is_quick else SIZE
    locations = locations_of(size, FCOS_STRIDES, setup.device)
    for batch_size in QUICK_BATCHES if setup.is_quick else BATCHES:
        gt = ground_truth(batch_size, size, num_boxes=NUM_BOXES, num_classes=NUM_CLASSES, device=setup.device)
        targets = our_assignment(locations, gt, radius=RADIUS)()
        levels = random_predictions(locations, batch_size, num_classes=NUM_CLASSES)
        cases = {
            OURS: our_losses(levels, targets),
            "detectron2": detectron2_losses(levels, targets, locations, gt),
            "torchvision": torchvision_losses(levels, targets, locations, gt),
        }
        runs = {name: with_gradients(losses, levels) for name, losses in cases.items()}
        yield Comparison({"batch": batch_size, "classes": NUM_CLASSES}, runs)


def random_predictions(locations: Locations, batch_size: int, *, num_classes: int, mean_logit: float = -4.6) -> Levels:
    """
    Args:
        mean_logit: that of the prior .01 is -4.6.
    """
    generator = torch.Generator().manual_seed(SEED)

    def normal(channels: int, mean: float) -> list[Tensor]:
        return [
            (mean + torch.randn(batch_size, channels, count, generator=generator)).to(locations.points.device)
            for count in locations.num_per_level
        ]

    levels = Levels(normal(num_classes, mean_logit), [x.exp() for x in normal(4, 0.0)], normal(1, 0.0))
    for tensor in (*levels.logits, *levels.ltrb, *levels.centerness):
        tensor.requires_grad_()
    return levels


def with_gradients(losses: Callable[[], dict[str, Tensor]], levels: Levels) -> Callable[[], None]:
    """Begin and end without gradients, so that their memory is part of every run."""

    def run() -> None:
        with EventStorage():  # detectron2 logs to it
            sum(losses().values(), torch.zeros(())).backward()
        for tensor in (*levels.logits, *levels.ltrb, *levels.centerness):
            tensor.grad = None

    return run


def our_losses(levels: Levels, targets: FCOSTargets) -> Callable[[], dict[str, Tensor]]:
    criterion = FCOSLosses()
    return lambda: criterion(levels.joined(), targets)


def detectron2_losses(
    levels: Levels, targets: FCOSTargets, locations: Locations, gt: Sequence[Instances]
) -> Callable[[], dict[str, Tensor]]:
    parts = detectron2_parts(FCOS_STRIDES, num_classes=NUM_CLASSES, radius=RADIUS)
    anchors = [Boxes(level) for level in cells(locations).split(locations.num_per_level)]
    labels = list(targets.labels)
    boxes = [x.gt_boxes.tensor[idxs.clamp(min=0)] for x, idxs in zip(gt, targets.matched_idxs, strict=True)]

    def run() -> dict[str, Tensor]:
        logits, ltrb, centerness = levels.by_location()
        found: dict[str, Tensor] = parts.losses(anchors, logits, labels, ltrb, boxes, centerness)
        return found

    return run


def torchvision_losses(
    levels: Levels, targets: FCOSTargets, locations: Locations, gt: Sequence[Instances]
) -> Callable[[], dict[str, Tensor]]:
    head: Any = SimpleNamespace(box_coder=torchvision_utils.BoxLinearCoder(normalize_by_size=True))
    anchors = [cells(locations)] * len(gt)
    of_images = [{"boxes": x.gt_boxes.tensor, "labels": x.gt_classes} for x in gt]
    matched_idxs = list(targets.matched_idxs)

    def run() -> dict[str, Tensor]:
        names = ("cls_logits", "bbox_regression", "bbox_ctrness")
        outputs = {name: torch.cat(tensors, dim=1) for name, tensors in zip(names, levels.by_location(), strict=True)}
        found: dict[str, Tensor] = TorchvisionHead.compute_loss(head, of_images, outputs, anchors, matched_idxs)
        return found

    return run
