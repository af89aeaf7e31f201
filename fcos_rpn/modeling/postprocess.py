"""From predictions to boxes: fuse scores, threshold, best of each level, decode, clip, suppress (paper, section 3.1).

Shapes: N images, L levels, R = Σ Hi·Wi locations, C foreground classes, K kept boxes of one image.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import batched_nms, nms

from ..errors import require_one_of
from .geometry import Locations, compute_centerness, decode_boxes
from .head import FCOSPredictions

SCORE_FUSIONS = ("geometric", "product")
"""√(class · centerness), or class · centerness."""

THRESHOLDED = ("class", "fused")
"""What the score threshold is compared with: the class probability, or the fused score."""

SUPPRESSION_MARGIN = 2
"""Times as many boxes as wanted are looked at first."""

SUPPRESSION_GROWTH = 4
"""Times as many at each next try, so that those in vain cost little."""


class Selection(NamedTuple):
    """K boxes of one image, best first."""

    boxes: Tensor
    """(K, 4) pixels of the network's input, within the image."""
    scores: Tensor
    """(K,)"""
    classes: Tensor
    """(K,) int64"""
    location_idxs: Tensor
    """(K,) int64 rows of the locations."""


class FCOSPostProcessor:
    """Selects boxes; the same for detections and proposals, which differ in the values given here.

    A candidate is a pair of a location and a class. Its score fuses the class's and the location's centerness
    probabilities; without a centerness, it is the class's.
    """

    def __init__(
        self,
        *,
        score_thresh: float | None,
        pre_nms_topk: int,
        nms_thresh: float,
        post_nms_topk: int,
        min_box_size: float = 0.0,
        nms_per_level: bool = False,
        score_fusion: str = "geometric",
        thresh_on: str = "class",
        computes_centerness: bool = False,
    ) -> None:
        """
        Args:
            score_thresh: candidates need a probability above it; None keeps all.
            pre_nms_topk: candidates per level, by score.
            nms_thresh: a box is dropped if its IoU with a better one of the same class is above.
            post_nms_topk: most boxes of an image.
            min_box_size: boxes with a side not longer than this, in pixels, are dropped before the suppression.
            nms_per_level: let boxes suppress each other only within a level, as Detectron2's RPN does, and not
                within the whole image, as a detector does.
            score_fusion: one of `SCORE_FUSIONS`.
            thresh_on: one of `THRESHOLDED`.
            computes_centerness: take the centerness of the location in the box that it predicts (paper, table 4).

        Raises:
            ArgumentError: on an unknown fusion or kind of score.
        """
        require_one_of("score_fusion", score_fusion, SCORE_FUSIONS)
        require_one_of("thresh_on", thresh_on, THRESHOLDED)
        self.score_thresh = score_thresh
        self.pre_nms_topk = pre_nms_topk
        self.nms_thresh = nms_thresh
        self.post_nms_topk = post_nms_topk
        self.min_box_size = min_box_size
        self.nms_per_level = nms_per_level
        self.score_fusion = score_fusion
        self.thresh_on = thresh_on
        self.computes_centerness = computes_centerness

    @torch.no_grad()
    def __call__(
        self, predictions: FCOSPredictions, locations: Locations, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """
        Args:
            predictions: of N images.
            locations: R locations.
            image_sizes: N (height, width) in pixels, without the padding.

        Returns:
            N instances with `pred_boxes` (pixels of the network's input, within the image), `scores`, `pred_classes`
            and `location_idxs` (rows of the locations), best first. Boxes that are not finite are dropped.
        """
        scores = self.candidate_scores(predictions)
        selections = [
            self.select(scores[image], predictions.ltrb[image].float(), locations, image_size)
            for image, image_size in enumerate(image_sizes)
        ]
        return [
            Instances(
                image_size,
                pred_boxes=Boxes(selection.boxes),
                scores=selection.scores,
                pred_classes=selection.classes,
                location_idxs=selection.location_idxs,
            )
            for selection, image_size in zip(selections, image_sizes, strict=True)
        ]

    def candidate_scores(self, predictions: FCOSPredictions) -> Tensor:
        """(N, R, C) fused scores, -1 where a candidate is under the threshold."""
        class_scores, scores = self.score(predictions)
        if self.score_thresh is None:
            return scores
        thresholded = class_scores if self.thresh_on == "class" else scores
        return scores.masked_fill(thresholded <= self.score_thresh, -1.0)

    def score(self, predictions: FCOSPredictions) -> tuple[Tensor, Tensor]:
        """(N, R, C) class probabilities, and (N, R, C) what they become together with the centerness."""
        class_scores = predictions.logits.float().sigmoid()
        centerness = self.centerness(predictions)
        if centerness is None:
            return class_scores, class_scores
        fused = class_scores * centerness[..., None]
        return class_scores, fused.sqrt() if self.score_fusion == "geometric" else fused

    def centerness(self, predictions: FCOSPredictions) -> Tensor | None:
        """(N, R) centerness (or IoU) that is fused into the scores; None if there is none."""
        if self.computes_centerness:
            return compute_centerness(predictions.ltrb.float())
        return None if predictions.centerness is None else predictions.centerness.float().sigmoid()

    def select(
        self,
        scores: Tensor,
        ltrb: Tensor,
        locations: Locations,
        image_size: tuple[int, int],
        *,
        suppress: Callable[[Tensor, Tensor, Tensor, float], Tensor] | None = None,
    ) -> Selection:
        """Tensors alone and, but for the suppression, no branch on what is in them, so that `torch.export` can follow.

        Args:
            scores: (R, C) of one image; candidates with a negative one are not selected.
            ltrb: (R, 4) distances, in strides.
            locations: R locations.
            image_size: (height, width) in pixels, without the padding.
            suppress: in place of torchvision's `batched_nms` or, within levels, of `best_after_nms`; takes what the
                first takes, and gives what it gives.
        """
        num_classes = scores.shape[1]
        kept_scores, kept_idxs, kept_levels = [], [], []
        first = 0
        for level, level_scores in enumerate(scores.split(locations.num_per_level)):
            top_scores, top_idxs = _topk(level_scores.flatten(), self.pre_nms_topk)
            kept_scores.append(top_scores)
            kept_idxs.append(top_idxs + first * num_classes)
            kept_levels.append(torch.full_like(top_idxs, level))
            first += level_scores.shape[0]
        candidate_scores, candidate_idxs = torch.cat(kept_scores), torch.cat(kept_idxs)
        where, classes = candidate_idxs // num_classes, candidate_idxs % num_classes

        boxes = decode_boxes(locations.points[where], locations.strides[where], ltrb[where])
        is_finite = torch.isfinite(boxes).all(dim=1)
        boxes = _clip(boxes.nan_to_num(), image_size)
        is_large = (boxes[:, 2:] - boxes[:, :2] > self.min_box_size).all(dim=1)
        kept = (is_finite & is_large).nonzero().squeeze(1)
        found = Selection(boxes[kept], candidate_scores[kept], classes[kept], where[kept])
        groups = torch.cat(kept_levels)[kept] if self.nms_per_level else found.classes
        if suppress is None:
            few_groups = self.nms_per_level
            suppress = partial(best_after_nms, num_wanted=self.post_nms_topk) if few_groups else batched_nms
        best_first = suppress(found.boxes, found.scores, groups, self.nms_thresh)[: self.post_nms_topk]
        return Selection(*(field[best_first] for field in found))


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of (B,) scores >= 0 (which NaN is not), fewer if there are fewer, best first, and their indices."""
    eligible = (scores >= 0).nonzero().squeeze(1)
    top_scores, top = scores[eligible].topk(torch.sym_min(k, eligible.shape[0]))
    return top_scores, eligible[top]


def best_after_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, *, num_wanted: int) -> Tensor:
    """The first `num_wanted` of torchvision's `batched_nms`, in a fraction of its time where most boxes stay.

    Only better boxes suppress a box. So what stays of the best boxes also stays of all, and no other box comes before
    it; where that is enough, the others need not be looked at. For few groups, since each is suppressed by itself:
    torchvision moves the boxes of different groups apart where they are few, which rounds them.

    Args:
        boxes: (K, 4) x0, y0, x1, y1.
        scores: (K,)
        groups: (K,) int64; boxes of different groups do not touch each other.
        iou_threshold: a box is dropped if its IoU with a better one of its group that stays is above.
        num_wanted: most boxes of the result.

    Returns:
        int64 indices of the boxes that stay, best first.
    """
    best_first = scores.argsort(descending=True, stable=True)
    num_seen = SUPPRESSION_MARGIN * num_wanted
    while True:
        seen = best_first[:num_seen]
        kept = _nms_by_group(boxes[seen], scores[seen], groups[seen], iou_threshold)
        if len(kept) >= num_wanted or len(seen) == len(boxes):
            return seen[kept[:num_wanted]]
        num_seen *= SUPPRESSION_GROWTH


def _nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Indices of those that stay, in the order of the boxes."""
    stays = torch.zeros_like(groups, dtype=torch.bool)
    for group in groups.unique():
        members = (groups == group).nonzero().squeeze(1)
        stays[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    return stays.nonzero().squeeze(1)


def _clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(K, 4), the parts of them within the image."""
    height, width = image_size
    x, y = boxes[:, 0::2].clamp(min=0, max=width), boxes[:, 1::2].clamp(min=0, max=height)
    return torch.stack([x, y], dim=2).flatten(start_dim=1)


def rescale(instances: Sequence[Instances], batched_inputs: Sequence[Mapping[str, Any]]) -> list[Instances]:
    """From pixels of the network's input to pixels of the wanted output, `height` and `width` of each input.

    Works in place, as `detector_postprocess` does: the boxes given here must not be needed any more.
    """
    return [
        detector_postprocess(found, x.get("height", found.image_size[0]), x.get("width", found.image_size[1]))
        for found, x in zip(instances, batched_inputs, strict=True)
    ]
