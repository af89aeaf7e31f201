"""Which boxes anchors can learn under the three rules for low-quality matches (paper, table 1).

The anchors and the matcher are Detectron2's. An anchor learns the box that it overlaps most if their IoU reaches the
config's upper threshold. The low-quality matches of a box are the anchors that overlap it most, whatever their IoU; as
in Detectron2, such an anchor learns the box that *it* overlaps most, which may be another one.

Shapes: m boxes of an image, L levels, A anchors on all levels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import BufferList, DefaultAnchorGenerator, build_anchor_generator
from detectron2.modeling.matcher import Matcher
from torch import Tensor
from torchvision.ops import box_iou

from ..errors import UserError
from ..modeling.core import require_levels
from .annotated_boxes import ImageGroup
from .assignment import Assignment, grid_sizes

LOW_QUALITY_IOU = {"none": float("inf"), "IoU >= .4": 0.4, "all": 0.0}
"""Rule -> least IoU of a low-quality match. Detectron2 trains RetinaNet and RPN with "all"."""

TRAINING_RULE = "all"
MAX_PAIRS_AT_ONCE = 1 << 20


class AnchorSampler:
    """The anchors of a config and which boxes they learn. `LocationSampler` is its counterpart for locations."""

    @configurable
    def __init__(
        self,
        *,
        level_names: Sequence[str],
        generator: DefaultAnchorGenerator,
        iou_thresholds: Sequence[float],
        iou_labels: Sequence[int],
        num_classes: int,
        counts_pixels: bool = False,
    ) -> None:
        """
        Args:
            level_names: of the L levels.
            generator: of their anchors.
            iou_thresholds, iou_labels: see Detectron2's `Matcher`.
            num_classes: that the head tells apart.
            counts_pixels: a box from 0 to 1 is two pixels wide, as in the IoU of the paper's code.
        """
        self.level_names = list(level_names)
        self.generator = generator
        self.matcher = Matcher(list(iou_thresholds), list(iou_labels), allow_low_quality_matches=False)
        self.positive_iou = iou_thresholds[-1]
        self.num_classes = num_classes
        self.outputs_per_sample = num_classes + 4
        self.corner_shift = torch.tensor([0.0, 0.0, 1.0, 1.0]) if counts_pixels else torch.zeros(4)
        self._anchors_of_last_size: tuple[tuple[int, int], Tensor] | None = None

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        input_shape: Mapping[str, ShapeSpec],
        *,
        in_features: Sequence[str],
        num_classes: int,
        counts_pixels: bool = False,
    ) -> dict[str, Any]:
        """Take levels and classes of the architecture: RetinaNet's, or those of an R-CNN's or a bare RPN.

        With `counts_pixels`, the anchors are those of the paper's code; see `_pixel_anchors`.

        Raises:
            UserError: if the levels are not the backbone's, or the anchors are rotated.
        """
        require_levels(in_features, input_shape)
        generator = build_anchor_generator(cfg, [input_shape[name] for name in in_features])
        if not isinstance(generator, DefaultAnchorGenerator):
            raise UserError("MODEL.ANCHOR_GENERATOR.NAME: only the anchors of DefaultAnchorGenerator can be analyzed")
        if counts_pixels:
            sizes, ratios = cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
            generator.cell_anchors, generator.offset = _pixel_anchors(generator.strides, sizes, ratios), 0.0
        matching = cfg.MODEL.RETINANET if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else cfg.MODEL.RPN
        return {
            "level_names": in_features,
            "generator": generator,
            "iou_thresholds": matching.IOU_THRESHOLDS,
            "iou_labels": matching.IOU_LABELS,
            "num_classes": num_classes,
            "counts_pixels": counts_pixels,
        }

    def num_per_level(self, padded_size: tuple[int, int]) -> list[int]:
        """Return the number of anchors of each level for an image of this height and width."""
        sizes = grid_sizes(padded_size, self.generator.strides)
        return [h * w * per_cell for (h, w), per_cell in zip(sizes, self.generator.num_anchors, strict=True)]

    def assign(self, group: ImageGroup) -> Assignment:
        anchors = self._anchors(group.padded_size)
        classes = group.classes if self.num_classes > 1 else torch.zeros_like(group.classes)
        num_per_image = torch.bincount(group.image_idxs, minlength=group.num_images).tolist()
        found = [
            self._assign_image(anchors, boxes, labels, self.num_per_level(group.padded_size))
            for boxes, labels in zip(group.boxes.split(num_per_image), classes.split(num_per_image), strict=True)
        ]
        return Assignment(
            positives_per_box=torch.cat([image.positives_per_box for image in found]),
            positives_per_level=torch.stack([image.positives_per_level for image in found]).sum(0),
            num_ambiguous=sum(image.num_ambiguous for image in found),
            num_ambiguous_across_classes=sum(image.num_ambiguous_across_classes for image in found),
            is_learned_by_rule={
                rule: torch.cat([image.is_learned_by_rule[rule] for image in found]) for rule in LOW_QUALITY_IOU
            },
        )

    def _anchors(self, padded_size: tuple[int, int]) -> Tensor:
        if self._anchors_of_last_size is None or self._anchors_of_last_size[0] != padded_size:
            # The generator looks at the shapes of the maps only.
            maps = [torch.empty(0, *size) for size in grid_sizes(padded_size, self.generator.strides)]
            anchors = torch.cat([level.tensor for level in self.generator(maps)])
            self._anchors_of_last_size = padded_size, anchors
        return self._anchors_of_last_size[1]

    def _assign_image(self, anchors: Tensor, boxes: Tensor, classes: Tensor, num_per_level: list[int]) -> Assignment:
        matches = self._match(anchors, boxes)
        positives_per_box = {
            rule: torch.bincount(matches.learned_box[matches.is_positive(rule)], minlength=len(boxes))
            for rule in LOW_QUALITY_IOU
        }
        level_of = torch.repeat_interleave(torch.tensor(num_per_level))
        num_candidates = torch.bincount(matches.overlapping, minlength=len(anchors))
        learned_classes = classes[matches.learned_box]
        is_of_another_class = classes[matches.overlapped_box] != learned_classes[matches.overlapping]
        return Assignment(
            positives_per_box=positives_per_box[TRAINING_RULE],
            positives_per_level=torch.bincount(
                level_of[matches.is_positive(TRAINING_RULE)], minlength=len(num_per_level)
            ),
            num_ambiguous=int((num_candidates > 1).sum()),
            num_ambiguous_across_classes=len(matches.overlapping[is_of_another_class].unique()),
            is_learned_by_rule={rule: number > 0 for rule, number in positives_per_box.items()},
        )

    def _match(self, anchors: Tensor, boxes: Tensor) -> "_Matches":
        """Match the anchors with all boxes of an image, in chunks of anchors."""
        learned_box, is_matched, best, overlaps = [], [], [], []
        start = 0
        for chunk in anchors.split(max(1, MAX_PAIRS_AT_ONCE // len(boxes))):
            iou = box_iou(boxes + self.corner_shift, chunk + self.corner_shift)  # (m, a)
            box_of_chunk, labels = self.matcher(iou)
            learned_box.append(box_of_chunk)
            is_matched.append(labels == 1)
            # The best anchor of all is among the best of the chunks.
            is_best = (iou == iou.max(dim=1, keepdim=True).values) & (iou > 0)
            best.append((iou[is_best], *_pairs(is_best, start)))
            overlaps.append(_pairs(iou >= self.positive_iou, start))
            start += len(chunk)

        best_iou, box_idxs, anchor_idxs = (torch.cat(parts) for parts in zip(*best, strict=True))
        best_of_box = best_iou.new_zeros(len(boxes)).scatter_reduce_(0, box_idxs, best_iou, "amax")
        is_best_of_all = best_iou == best_of_box[box_idxs]
        low_quality_iou = best_iou.new_zeros(len(anchors)).scatter_reduce_(
            0, anchor_idxs[is_best_of_all], best_iou[is_best_of_all], "amax"
        )
        overlapped_box, overlapping = (torch.cat(parts) for parts in zip(*overlaps, strict=True))
        return _Matches(torch.cat(learned_box), torch.cat(is_matched), low_quality_iou, overlapping, overlapped_box)


class _Matches(NamedTuple):
    learned_box: Tensor
    """(A,) the box that each anchor overlaps most."""
    is_matched: Tensor
    """(A,) whether their IoU reaches the upper threshold."""
    low_quality_iou: Tensor
    """(A,) the largest IoU with a box that no other anchor overlaps more; 0 without such a box."""
    overlapping: Tensor
    """(K,) anchors of all pairs whose IoU reaches the upper threshold."""
    overlapped_box: Tensor
    """(K,) boxes of these pairs."""

    def is_positive(self, rule: str) -> Tensor:
        """Return (A,) whether each anchor is positive under a rule of LOW_QUALITY_IOU."""
        return self.is_matched | ((self.low_quality_iou > 0) & (self.low_quality_iou >= LOW_QUALITY_IOU[rule]))


def _pixel_anchors(
    strides: Sequence[int], sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]]
) -> BufferList:
    """Return the (a, 4) anchors of a cell of each level, as the paper's code has them.

    They are centered on the cell's pixels, 0 to stride - 1. The shape of an anchor as large as the cell is rounded to
    whole pixels; larger anchors are multiples of it.

    Args:
        strides: of the L levels.
        sizes, aspect_ratios: values of Detectron2's keys, for each level or once for all.
    """
    cells = []
    for level, stride in enumerate(strides):
        of_level = [
            (round(stride / math.sqrt(ratio)), round(round(stride / math.sqrt(ratio)) * ratio), size / stride)
            for ratio in aspect_ratios[level % len(aspect_ratios)]
            for size in sizes[level % len(sizes)]
        ]
        half_sides = torch.tensor([[width * scale - 1, height * scale - 1] for width, height, scale in of_level]) / 2
        center = (stride - 1) / 2
        cells.append(torch.cat([center - half_sides, center + half_sides], dim=1))
    return BufferList(cells)


def _pairs(is_pair: Tensor, first_anchor: int) -> tuple[Tensor, Tensor]:
    box_idxs, anchor_idxs = is_pair.nonzero(as_tuple=True)
    return box_idxs, first_anchor + anchor_idxs
