"""Figures and pictures of training steps in Detectron2's event storage, where there is one.

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
from torch import Tensor
from torch.nn import functional as F

from .assigner import FCOSTargets
from .geometry import Locations, compute_centerness
from .head import FCOSPredictions
from .losses import FCOSLosses

logger = logging.getLogger(__name__)

PERIOD = 20
"""Iterations between two entries of Detectron2's log."""

MAX_SHOWN = 20
"""Detections in a picture."""

ZERO_SIZE = "boxes_of_zero_size"
"""Share of the positives whose predicted box has no area."""


def is_time_to_log(period: int) -> bool:
    """Tell whether there is an event storage whose iteration is a multiple of the period; 0 is never."""
    return period > 0 and has_event_storage() and get_event_storage().iter % period == 0


@torch.no_grad()
def log_training_step(
    role: str,
    level_names: Sequence[str],
    predictions: FCOSPredictions,
    targets: FCOSTargets,
    locations: Locations,
    gt_instances: Sequence[Instances],
    losses: FCOSLosses,
    weight: float = 1.0,
) -> None:
    """Put figures of targets and predictions into the event storage as `role/name`, every `PERIOD` iterations.

    Args:
        role: prefix of the names.
        level_names: of the L levels.
        predictions, targets, locations, gt_instances: of N images.
        losses: used for the step.
        weight: factor of the losses.
    """
    if not is_time_to_log(PERIOD):
        return
    num_boxes = sum(len(instances) for instances in gt_instances)
    found = target_statistics(level_names, targets, locations, num_boxes)
    ltrb = predictions.ltrb.flatten(0, 1)[targets.positives].float()  # (P, 4)
    if len(ltrb):
        found[ZERO_SIZE] = (ltrb[:, :2] + ltrb[:, 2:] <= 0).any(dim=1).float().mean()
        if predictions.centerness is not None:
            wanted = losses.centerness_targets(ltrb, targets)
            with torch.autocast(wanted.device.type, enabled=False):  # a GPU's autocast refuses this function
                entropy = F.binary_cross_entropy(wanted.float(), wanted.float())
            found["centerness_entropy"] = entropy * losses.weights["ctr"] * weight
    storage = get_event_storage()
    storage.put_scalars(**{f"{role}/{name}": float(value) for name, value in found.items()}, smoothing_hint=False)
    if ZERO_SIZE in found:
        _warn_of_dead_regressor(role)


def target_statistics(
    level_names: Sequence[str], targets: FCOSTargets, locations: Locations, num_boxes: int
) -> dict[str, Tensor]:
    """Count what locations learn.

    Args:
        level_names: of the L levels.
        targets: of N images.
        locations: R of them.
        num_boxes: M of all images together.

    Returns:
        Scalars. `num_positives_<level>`: locations that learn a box. If there are boxes, `boxes_without_positive`: the
        share of them that no location learns. If there are positives, their `mean_centerness`.
    """
    num_locations = targets.labels.shape[1]
    is_positive = torch.zeros_like(targets.labels, dtype=torch.bool)
    is_positive.view(-1)[targets.positives] = True
    of_levels = is_positive.split(locations.num_per_level, dim=1)
    found = {f"num_positives_{name}": level.sum() for name, level in zip(level_names, of_levels, strict=True)}
    if num_boxes:
        boxes = torch.stack([targets.positives // num_locations, targets.box_idxs])
        found["boxes_without_positive"] = torch.tensor(1 - boxes.unique(dim=1).shape[1] / num_boxes)
    if len(targets.positives):
        found["mean_centerness"] = compute_centerness(targets.ltrb).mean()
    return found


def _warn_of_dead_regressor(role: str) -> None:
    """Warn once, at the second entry in a row in which all predicted boxes have zero size.

    A ReLU that is below 0 at all locations gets no gradient any more.
    """
    storage = get_event_storage()
    is_dead = [share == 1 for share, _ in storage.history(f"{role}/{ZERO_SIZE}").values()]
    if is_dead[-2:] == [True, True] and is_dead[-3:] != [True] * 3:
        logger.warning(
            "%s: all boxes predicted for positives have zero size, at iteration %d and at the log entry before it. The "
            "regressor has died and does not learn any more. Restart from an earlier checkpoint, without --resume, or "
            "from the first weights, with a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, "
            "SOLVER.CLIP_GRADIENTS.ENABLED True, or MODEL.FCOS.BBOX_ACTIVATION exp, which cannot die",
            role,
            storage.iter,
        )


def log_picture(x: dict[str, Any], detections: Instances, *, input_format: str) -> None:
    """Put an image into the event storage, its ground truth on the left and its best detections on the right.

    Args:
        x: an input of training: `image` (channels, height, width) and `instances`.
        detections: of that image, best first, in its pixels.
        input_format: of the image, as Detectron2's `INPUT.FORMAT`.
    """
    if not has_event_storage():
        return
    from detectron2.utils.visualizer import Visualizer  # takes seconds to import

    image = convert_image_to_rgb(x["image"].permute(1, 2, 0), input_format)
    truth = Visualizer(image).overlay_instances(boxes=x["instances"].gt_boxes.to("cpu"))
    best = detections[:MAX_SHOWN].to("cpu")
    labels = [f"{score:.2f}" for score in best.scores.tolist()]
    found = Visualizer(image).overlay_instances(boxes=best.pred_boxes, labels=labels)
    both = np.concatenate([truth.get_image(), found.get_image()], axis=1)  # (height, 2·width, 3)
    get_event_storage().put_image("Left: ground truth; right: detections", both.transpose(2, 0, 1))
