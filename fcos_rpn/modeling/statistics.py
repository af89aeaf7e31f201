"""What the targets of a training step look like, for the training log.

`centerness_entropy` answers the question asked most often about FCOS, why the centerness loss stays near 0.6: its
targets lie between 0 and 1, so that even a perfect prediction costs their entropy.

Shapes: N images, L levels, R locations, P positives, M boxes.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor
from torch.nn import functional as F

from .assigner import FCOSTargets
from .geometry import Locations, compute_centerness

PERIOD = 20
"""Iterations from one entry of Detectron2's log to the next; in between nobody would see the figures."""


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
        box_idxs = targets.matched_idxs.flatten()[targets.positives]
        image_idxs = targets.positives // num_locations
        num_learned = len(torch.stack([image_idxs, box_idxs]).unique(dim=1)[0])
        found["boxes_without_positive"] = torch.tensor(1 - num_learned / num_boxes)
    if len(targets.positives):
        centerness = compute_centerness(targets.ltrb)  # (P,)
        found["mean_centerness"] = centerness.mean()
        found["centerness_entropy"] = F.binary_cross_entropy(centerness, centerness)
    return found
