"""What a training step shows in Detectron2's log: figures of its targets and boxes, and a picture of what it finds.

`centerness_entropy` answers the question asked most often about FCOS, why the centerness loss stays near 0.6: its
targets lie between 0 and 1, so that even a perfect prediction costs their entropy.

Shapes: N images, L levels, R locations, P positives, M boxes.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.visualizer import Visualizer
from torch import Tensor
from torch.nn import functional as F

from .assigner import FCOSTargets
from .geometry import Locations, compute_centerness
from .head import FCOSPredictions

logger = logging.getLogger(__name__)

PERIOD = 20
"""Iterations from one entry of Detectron2's log to the next; in between nobody would see the figures."""

MAX_SHOWN = 20
"""Detections in a picture."""

ZERO_SIZE = "boxes_of_zero_size"
"""Share of the positives whose predicted box has no area."""


def log_targets(
    role: str, level_names: Sequence[str], targets: FCOSTargets, locations: Locations, gt_instances: Sequence[Instances]
) -> None:
    """Put `target_statistics` into Detectron2's event storage as `role/name`, if there is one and it is time."""
    if not has_event_storage():
        return
    storage = get_event_storage()
    if storage.iter % PERIOD == 0:
        num_boxes = sum(len(instances) for instances in gt_instances)
        found = target_statistics(level_names, targets, locations, num_boxes)
        storage.put_scalars(**{f"{role}/{name}": float(value) for name, value in found.items()}, smoothing_hint=False)


@torch.no_grad()
def target_statistics(
    level_names: Sequence[str], targets: FCOSTargets, locations: Locations, num_boxes: int
) -> dict[str, Tensor]:
    """
    Args:
        level_names: of the L levels.
        targets: of N images.
        locations: R of them.
        num_boxes: M of all images together.

    Returns:
        Scalars. `num_positives_<level>`: locations that learn a box. If there are boxes, `boxes_without_positive`: the
        share of them that no location learns. If there are positives, `mean_centerness` of these and
        `centerness_entropy`, the least value that the centerness loss can have.
    """
    num_locations = targets.labels.shape[1]
    per_image = locations.num_per_level
    level_idxs = torch.arange(len(per_image), device=targets.labels.device).repeat_interleave(
        torch.tensor(per_image, device=targets.labels.device)
    )  # (R,)
    num_positives = level_idxs[targets.positives % num_locations].bincount(minlength=len(per_image))  # (L,)
    found = {f"num_positives_{name}": number for name, number in zip(level_names, num_positives, strict=True)}
    if num_boxes:
        image_idxs = targets.positives // num_locations
        num_learned = len(torch.stack([image_idxs, targets.box_idxs]).unique(dim=1)[0])
        found["boxes_without_positive"] = torch.tensor(1 - num_learned / num_boxes)
    if len(targets.positives):
        centerness = compute_centerness(targets.ltrb)  # (P,)
        found["mean_centerness"] = centerness.mean()
        found["centerness_entropy"] = F.binary_cross_entropy(centerness, centerness)
    return found


def log_predictions(role: str, predictions: FCOSPredictions, targets: FCOSTargets) -> None:
    """Put `ZERO_SIZE` into Detectron2's event storage as `role/name`, if there is one, it is time and there are
    positives; say once, at the second such entry in a row, if it is all of them.

    That is what a dead regressor predicts: a ReLU that all locations have below 0 gets no gradient any more.
    """
    if not has_event_storage() or not len(targets.positives):
        return
    storage = get_event_storage()
    if storage.iter % PERIOD:
        return
    ltrb = predictions.ltrb.detach().flatten(0, 1)[targets.positives]  # (P, 4)
    sides = ltrb[:, :2] + ltrb[:, 2:]
    name = f"{role}/{ZERO_SIZE}"
    storage.put_scalar(name, float((sides <= 0).any(dim=1).float().mean()), smoothing_hint=False)
    is_dead = [share == 1 for share, _ in storage.history(name).values()]
    if is_dead[-2:] == [True, True] and is_dead[-3:] != [True] * 3:
        logger.warning(
            "%s: all boxes predicted for positives have zero size, at iteration %d as at the entry of the log before. "
            "The regressor has died, and does not learn any more: start anew, from a checkpoint before that without "
            "--resume or from the first weights, with a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, "
            "SOLVER.CLIP_GRADIENTS.ENABLED True, or with MODEL.FCOS.BBOX_ACTIVATION exp, which cannot die",
            role,
            storage.iter,
        )


def log_picture(x: dict[str, Any], detections: Instances, *, input_format: str) -> None:
    """Put an image into Detectron2's event storage, its ground truth on the left and its best detections on the right.

    Args:
        x: an input of training: `image` (channels, height, width) and `instances`.
        detections: of that image, best first, in its pixels.
        input_format: of the image, as Detectron2's `INPUT.FORMAT`.
    """
    image = convert_image_to_rgb(x["image"].permute(1, 2, 0), input_format)
    truth = Visualizer(image).overlay_instances(boxes=x["instances"].gt_boxes.to("cpu"))
    best = detections[:MAX_SHOWN].to("cpu")
    labels = [f"{score:.2f}" for score in best.scores.tolist()]
    found = Visualizer(image).overlay_instances(boxes=best.pred_boxes, labels=labels)
    both = np.concatenate([truth.get_image(), found.get_image()], axis=1)  # (height, 2·width, 3)
    get_event_storage().put_image("Left: ground truth; right: detections", both.transpose(2, 0, 1))
