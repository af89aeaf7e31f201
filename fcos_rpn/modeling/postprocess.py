"""Select boxes: fuse scores, threshold, best of each level, decode, clip, suppress (paper, section 3.1).

Shapes: N images, L levels, R = Σ Hi·Wi locations, C foreground classes, K kept boxes of one image.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

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
"""The score threshold applies to the class probability, or to the fused score."""

SUPPRESSION_MARGIN = 2
"""The first try looks at this many times the wanted number of boxes."""

SUPPRESSION_GROWTH = 4
"""Each further try looks at this many times the boxes of the one before, so that failed tries cost little."""

MAX_SCALE_BITS = 50
"""The area of a box of 2,000 pixels, scaled by 2^50, is a float32."""

Suppression: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Boxes, scores, groups and the threshold -> indices of the boxes that stay, best first: see `best_after_nms`."""


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
    """Selects detections or proposals, which differ only in the arguments.

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
            score_thresh: candidates need a score above it; None keeps all.
            pre_nms_topk: candidates per level, by score.
            nms_thresh: a box is dropped if its IoU with a better one of the same class is above.
            post_nms_topk: most boxes of an image.
            min_box_size: boxes whose shorter side is not above this, in pixels, are dropped before the suppression.
            nms_per_level: boxes suppress each other only within a level, as in Detectron2's RPN; otherwise within the
                whole image, class by class.
            score_fusion: one of `SCORE_FUSIONS`.
            thresh_on: one of `THRESHOLDED`.
            computes_centerness: use the centerness of the location in the box that it predicts (paper, table 4).

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
        """Select the boxes of N images.

        Args:
            predictions: of N images.
            locations: R locations.
            image_sizes: N (height, width) in pixels, without the padding.

        Returns:
            N instances with `pred_boxes` (pixels of the network's input, within the image), `scores`, `pred_classes`
            and `location_idxs` (rows of the locations), best first. Boxes that are not finite are dropped.
        """
        scores, ltrb = self.candidate_scores(predictions), predictions.ltrb.float()
        if is_on_cpu(scores):
            selections = [
                self.select(image_scores, image_ltrb, locations, image_size)
                for image_scores, image_ltrb, image_size in zip(scores, ltrb, image_sizes, strict=True)
            ]
        else:
            selections = self._select_together(scores, ltrb, locations, image_sizes)
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
        """Return (N, R, C) fused scores, -1 where a candidate is not above the threshold."""
        class_scores, scores = self.score(predictions)
        if self.score_thresh is None:
            return scores
        thresholded = class_scores if self.thresh_on == "class" else scores
        return scores.masked_fill(thresholded <= self.score_thresh, -1.0)

    def score(self, predictions: FCOSPredictions) -> tuple[Tensor, Tensor]:
        """Return (N, R, C) class probabilities, and (N, R, C) scores fused with the centerness."""
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
        suppress: Suppression | None = None,
    ) -> Selection:
        """Select the boxes of one image: the fast way on CPUs, where dropping candidates early saves work.

        Takes and gives tensors only and, except in the suppression, does not branch on their values, so that
        `torch.export` can trace it.

        Args:
            scores: (R, C); candidates with a negative one are not selected.
            ltrb: (R, 4) distances, in strides.
            locations: R locations.
            image_size: (height, width) in pixels, without the padding.
            suppress: replaces torchvision's `batched_nms` or, within levels, `best_after_nms`; takes the arguments of
                the first, and returns what it returns.
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

        boxes, is_box = self._decode(where, ltrb[where], locations, partial(_clip, image_size=image_size))
        kept = is_box.nonzero().squeeze(1)
        found = Selection(boxes[kept], candidate_scores[kept], classes[kept], where[kept])
        groups = torch.cat(kept_levels)[kept] if self.nms_per_level else found.classes
        if suppress is None:
            few_groups = self.nms_per_level
            suppress = partial(best_after_nms, num_wanted=self.post_nms_topk) if few_groups else batched_nms
        best_first = suppress(found.boxes, found.scores, groups, self.nms_thresh)[: self.post_nms_topk]
        return Selection(*(field[best_first] for field in found))

    def _select_together(
        self, scores: Tensor, ltrb: Tensor, locations: Locations, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Selection]:
        """Select the boxes of N images like `select`: the fast way on GPUs.

        The host waits for the GPU once for the batch, and once in the suppression of each image. Candidates that are
        not eligible keep their places until then, with the score -1.
        """
        num_classes = scores.shape[2]
        scores = scores.masked_fill(~(scores >= 0), -1.0)  # replaces NaN, too
        top_scores, top_idxs, top_levels = [], [], []
        first = 0
        for level, level_scores in enumerate(scores.split(locations.num_per_level, dim=1)):
            flat = level_scores.flatten(1)
            best, idxs = flat.topk(min(self.pre_nms_topk, flat.shape[1]), dim=1)
            top_scores.append(best)
            top_idxs.append(idxs + first)
            top_levels.append(torch.full_like(idxs, level))
            first += flat.shape[1]
        candidate_scores, candidate_idxs = torch.cat(top_scores, dim=1), torch.cat(top_idxs, dim=1)  # (N, K)
        where, classes = candidate_idxs // num_classes, candidate_idxs % num_classes
        groups = torch.cat(top_levels, dim=1) if self.nms_per_level else classes

        rows = where[..., None].expand(-1, -1, 4)
        boxes, is_box = self._decode(
            where, ltrb.gather(1, rows), locations, partial(_clip_all, image_sizes=image_sizes)
        )
        is_kept = is_box & (candidate_scores >= 0)
        sorted_scores, order = candidate_scores.masked_fill(~is_kept, -1.0).sort(dim=1, descending=True, stable=True)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        classes, where, groups = (field.gather(1, order) for field in (classes, where, groups))
        num_kept = is_kept.sum(dim=1).cpu().tolist()

        apart = move_apart(boxes, groups, len(locations.grid_sizes)) if self.nms_per_level else boxes
        selections = []
        for number, *of_image in zip(num_kept, apart, groups, boxes, sorted_scores, classes, where, strict=True):
            of_nms, of_groups, *found = (field[:number] for field in of_image)
            if self.nms_per_level:
                best_first = nms(of_nms, found[1], self.nms_thresh)
            else:
                best_first = batched_nms(of_nms, found[1], of_groups, self.nms_thresh)
            selections.append(Selection(*(field[best_first[: self.post_nms_topk]] for field in found)))
        return selections

    def _decode(
        self, where: Tensor, ltrb: Tensor, locations: Locations, clip: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Decode and clip the boxes of (..., K) locations: (..., K, 4), and whether each is finite and large enough."""
        boxes = decode_boxes(locations.points[where], locations.strides[where], ltrb)
        last = boxes.dim() - 1  # with -1, onnxruntime gives no boxes a wrong shape
        is_finite = torch.isfinite(boxes).all(dim=last)
        boxes = clip(boxes.nan_to_num())
        is_large = (boxes[..., 2:] - boxes[..., :2] > self.min_box_size).all(dim=last)
        return boxes, is_finite & is_large


def is_on_cpu(tensor: Tensor) -> bool:
    """Choose between the two ways of selection."""
    return tensor.device.type == "cpu"


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best of (B,) scores >= 0 (NaN is not), best first, and their indices; all if there are fewer."""
    eligible = (scores >= 0).nonzero().squeeze(1)
    number = eligible.shape[0]
    # Other tracers than torch.export's know nothing of the symbolic minimum.
    number = torch.sym_min(k, number) if isinstance(number, torch.SymInt) else min(k, number)
    top_scores, top = scores[eligible].topk(number)
    return top_scores, eligible[top]


def move_apart(boxes: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Move boxes of different groups apart, so that one suppression does the work of one per group.

    Adding an offset would round the boxes and change IoUs. Mirroring does not: four groups fit into the four quadrants
    around the origin. Scaling by powers of two does not either: further groups are so much larger that their IoU with
    the others is below any threshold but 0.

    Args:
        boxes: (..., 4) x0, y0, x1, y1 >= 0.
        groups: (...) int64 in [0, num_groups).
    """
    signs = torch.stack([1 - 2 * (groups % 2), 1 - groups % 4 // 2 * 2], dim=-1)
    bits = MAX_SCALE_BITS // max(1, (num_groups - 1) // 4)
    scales = 1 << (groups // 4 * bits)
    corners = boxes.unflatten(-1, (2, 2)) * (signs * scales[..., None])[..., None, :]
    return torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)


def best_after_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, *, num_wanted: int) -> Tensor:
    """Return the first `num_wanted` of torchvision's `batched_nms`, in a fraction of its time where most boxes stay.

    Only better boxes suppress a box. So the boxes that stay among the best also stay among all, and no other box
    precedes them; if they are enough, the rest need not be looked at. Each group is suppressed separately, so use it
    for few groups. Boxes are not moved, which would round them.

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
    """Return the indices of the boxes that stay, in the order of the boxes."""
    stays = torch.zeros_like(groups, dtype=torch.bool)
    for group in groups.unique():
        members = (groups == group).nonzero().squeeze(1)
        stays[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    return stays.nonzero().squeeze(1)


def _clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip (K, 4) boxes to the image."""
    height, width = image_size
    x, y = boxes[:, 0::2].clamp(min=0, max=width), boxes[:, 1::2].clamp(min=0, max=height)
    return torch.stack([x, y], dim=2).flatten(start_dim=1)


def _clip_all(boxes: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Clip (N, K, 4) boxes to their images."""
    return torch.stack([_clip(*of_image) for of_image in zip(boxes, image_sizes, strict=True)])


def rescale(instances: Sequence[Instances], batched_inputs: Sequence[Mapping[str, Any]]) -> list[Instances]:
    """Rescale N images' boxes to the wanted output, `height` and `width` of each input, and drop those without area.

    The results are those of Detectron2's `detector_postprocess`, but the host waits for a GPU once for the batch, not
    several times per image. Works in place: the boxes given here must not be needed any more.
    """
    sizes = [
        (x.get("height", found.image_size[0]), x.get("width", found.image_size[1]))
        for found, x in zip(instances, batched_inputs, strict=True)
    ]
    if any(found.has("pred_masks") or found.has("pred_keypoints") for found in instances):
        return [detector_postprocess(found, *size) for found, size in zip(instances, sizes, strict=True)]
    rescaled = []
    for found, (height, width) in zip(instances, sizes, strict=True):
        boxes = found.pred_boxes if found.has("pred_boxes") else found.proposal_boxes
        boxes.scale(width / found.image_size[1], height / found.image_size[0])
        boxes.tensor = _clip(boxes.tensor, (height, width))
        rescaled.append((Instances((height, width), **found.get_fields()), boxes.nonempty()))
    is_box = torch.cat([of_image for _, of_image in rescaled]).cpu().split([len(found) for found, _ in rescaled])
    return [
        found if bool(on_cpu.all()) else found[of_image]
        for (found, of_image), on_cpu in zip(rescaled, is_box, strict=True)
    ]
