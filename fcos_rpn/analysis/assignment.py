"""Which boxes FCOS's locations can learn, and how often a location has to choose (paper, section 4.1, tables 1 and 2).

Shapes: m boxes of n images of one size, L levels, R locations, P positives of all images together.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..modeling.assigner import FCOSAssigner, smallest_candidates
from ..modeling.core import FCOSCore
from ..modeling.geometry import Locations, compute_locations
from .annotated_boxes import ImageGroup


class Assignment(NamedTuple):
    """What the samples (locations or anchors) of some images learn."""

    positives_per_box: Tensor
    """(m,) int64 samples that learn each box; their sum is P."""
    positives_per_level: Tensor
    """(L,) int64."""
    num_ambiguous: int
    """Positives that are candidates of several boxes, of which they learn one."""
    num_ambiguous_across_classes: int
    """Those of them whose candidates are not all of one class: another choice would change the label."""
    is_learned_by_rule: Mapping[str, Tensor]
    """(m,) bool by name of a rule for matching anchors; empty for locations."""


class Ambiguity(NamedTuple):
    """Shares of the positives, in percent (paper, table 2)."""

    ambiguous: float
    across_classes: float


def best_possible_recall(assigner: FCOSAssigner, locations: Locations, gt_instances: Sequence[Instances]) -> float:
    """Compute the percentage of boxes that at least one location learns (paper, table 1).

    The arguments are those of `FCOSAssigner.__call__`, on the CPU. 100 if there are no boxes.
    """
    positives_per_box = _assign_instances(assigner, locations, gt_instances).positives_per_box
    return percent(int((positives_per_box > 0).sum()), len(positives_per_box), of_none=100.0)


def ambiguous_samples(assigner: FCOSAssigner, locations: Locations, gt_instances: Sequence[Instances]) -> Ambiguity:
    """Compute which shares of the positive locations are candidates of several boxes (paper, table 2).

    The arguments are those of `FCOSAssigner.__call__`, on the CPU. 0 if nothing is positive.
    """
    found = _assign_instances(assigner, locations, gt_instances)
    num_positives = int(found.positives_per_level.sum())
    return Ambiguity(
        percent(found.num_ambiguous, num_positives), percent(found.num_ambiguous_across_classes, num_positives)
    )


def percent(part: int, whole: int, *, of_none: float = 0.0) -> float:
    return 100 * part / whole if whole else of_none


def _assign_instances(assigner: FCOSAssigner, locations: Locations, gt_instances: Sequence[Instances]) -> Assignment:
    num_boxes = torch.tensor([len(instances) for instances in gt_instances])
    return assign(
        assigner,
        locations,
        boxes=Boxes.cat([instances.gt_boxes for instances in gt_instances]).tensor,
        classes=torch.cat([instances.gt_classes for instances in gt_instances]),
        image_idxs=torch.repeat_interleave(num_boxes),
        num_images=len(gt_instances),
    )


@torch.no_grad()
def assign(
    assigner: FCOSAssigner,
    locations: Locations,
    *,
    boxes: Tensor,
    classes: Tensor,
    image_idxs: Tensor,
    num_images: int,
) -> Assignment:
    """
    Args:
        assigner: its candidates and its choice among them are what training uses.
        locations: R locations on L levels, on the CPU, of each of the images.
        boxes: (m, 4) pixels of the network's input.
        classes: (m,) int64.
        image_idxs: (m,) int64 in [0, num_images).
        num_images: n.
    """
    num_locations = len(locations.points)
    num_samples = num_images * num_locations
    location_idxs, box_idxs = assigner.candidates(locations, boxes)
    sample_idxs = image_idxs[box_idxs] * num_locations + location_idxs
    positives, matched = smallest_candidates([(sample_idxs, box_idxs)], boxes, num_samples)

    num_candidates = torch.bincount(sample_idxs, minlength=num_samples)
    learned_classes = classes.new_full((num_samples,), -1)
    learned_classes[positives] = classes[matched]
    is_of_another_class = classes[box_idxs] != learned_classes[sample_idxs]
    level_of = torch.repeat_interleave(torch.tensor(locations.num_per_level))  # (R,)
    return Assignment(
        positives_per_box=torch.bincount(matched, minlength=len(boxes)),
        positives_per_level=torch.bincount(level_of[positives % num_locations], minlength=len(locations.num_per_level)),
        num_ambiguous=int((num_candidates > 1).sum()),
        num_ambiguous_across_classes=len(sample_idxs[is_of_another_class].unique()),
        is_learned_by_rule={},
    )


class LocationSampler:
    """The locations of a config and which boxes they learn. `AnchorSampler` is its counterpart for anchors."""

    @configurable
    def __init__(
        self,
        *,
        level_names: Sequence[str],
        strides: Sequence[int],
        assigner: FCOSAssigner,
        location_offset: float,
        num_classes: int,
        predicts_centerness: bool = True,
    ) -> None:
        """
        Args:
            level_names, strides: of the L levels.
            assigner: with as many ranges.
            location_offset: see `compute_locations`.
            num_classes: that the head tells apart.
            predicts_centerness: besides class scores and four distances.
        """
        self.level_names = list(level_names)
        self.strides = list(strides)
        self.assigner = assigner
        self.location_offset = location_offset
        self.num_classes = num_classes
        self.outputs_per_sample = num_classes + 4 + predicts_centerness

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec], *, in_features: Sequence[str], num_classes: int
    ) -> dict[str, Any]:
        """Take the arguments of `FCOSCore.from_config`."""
        core = FCOSCore(cfg, input_shape, in_features=in_features, num_classes=num_classes)
        return {
            "level_names": core.in_features,
            "strides": core.strides,
            "assigner": core.assigner,
            "location_offset": core.location_offset,
            "num_classes": num_classes,
            "predicts_centerness": core.head.centerness is not None,
        }

    def num_per_level(self, padded_size: tuple[int, int]) -> list[int]:
        """Return the number of locations of each level for an image of this height and width."""
        return [height * width for height, width in self._grid_sizes(padded_size)]

    def assign(self, group: ImageGroup) -> Assignment:
        return assign(
            self.assigner,
            compute_locations(self._grid_sizes(group.padded_size), self.strides, offset=self.location_offset),
            boxes=group.boxes,
            # In the RPN role all boxes are of one class.
            classes=group.classes if self.num_classes > 1 else torch.zeros_like(group.classes),
            image_idxs=group.image_idxs,
            num_images=group.num_images,
        )

    def _grid_sizes(self, padded_size: tuple[int, int]) -> list[tuple[int, int]]:
        return grid_sizes(padded_size, self.strides)


def grid_sizes(padded_size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return (Hi, Wi) of each level. Every halving of a map rounds up."""
    height, width = padded_size
    return [(-(-height // stride), -(-width // stride)) for stride in strides]
