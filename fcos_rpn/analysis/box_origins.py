"""Where the boxes of a trained FCOS come from (paper, sections 4.1.1 and 4.1.2 and figure 7).

How well their scores rank them by IoU, before and after centerness, and how many come from ambiguous locations.

Shapes: N images, R locations, C classes, K boxes found in one image, M ground-truth boxes of that image. All boxes are
in pixels of the network's input.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork
from detectron2.structures import ImageList, Instances, pairwise_iou
from torch import Tensor

from ..modeling.assigner import FCOSAssigner
from ..modeling.find import find_fcos
from ..modeling.geometry import Locations
from ..modeling.meta_arch import FCOS, batch_images


class BoxOrigins(NamedTuple):
    """The scores of K boxes, their IoU with the ground truth, and which boxes their locations could learn."""

    class_scores: Tensor
    """(K,) class probability."""
    scores: Tensor
    """(K,) score, fused from class probability and centerness."""
    ious: Tensor
    """(K,) IoU with the ground-truth box that is overlapped most, whatever its class; 0 where there is none."""
    num_candidates: Tensor
    """(K,) int64 ground-truth boxes that the location could learn (`FCOSAssigner.candidates`)."""
    num_classes: Tensor
    """(K,) int64 different classes among them."""

    @classmethod
    def cat(cls, of_images: Sequence["BoxOrigins"]) -> "BoxOrigins":
        """Concatenate those of several images."""
        return cls(*(torch.cat(fields) for fields in zip(*of_images, strict=True)))


def preprocess(model: FCOS | GeneralizedRCNN | ProposalNetwork, batched_inputs: list[dict[str, Any]]) -> ImageList:
    """Return the backbone's input. Detectron2's ProposalNetwork has no method for it."""
    return batch_images(batched_inputs, model.backbone, model.pixel_mean, model.pixel_std)


@torch.no_grad()
def find_with_origins(
    model: FCOS | GeneralizedRCNN | ProposalNetwork, batched_inputs: list[dict[str, Any]], *, limit: int
) -> list[tuple[Instances, BoxOrigins]]:
    """Run a one-stage FCOS or an R-CNN's FCOSRPN, and trace where its detections or proposals come from.

    Args:
        model: one for which `find_fcos` finds an FCOS, in evaluation mode.
        batched_inputs: N of Detectron2's inputs with `instances`: `gt_boxes` and `gt_classes`, as in training.
        limit: how many boxes of an image to keep, best first.

    Returns:
        N instances with `pred_boxes`, `scores`, `pred_classes` and `location_idxs`, best first, with their origins.
    """
    parts = find_fcos(model)
    if parts is None:
        raise ValueError(f"{type(model).__name__} has neither the meta-architecture FCOS nor an FCOSRPN")
    core, postprocessor = parts
    images = preprocess(model, batched_inputs)
    predictions, locations = core(model.backbone(images.tensor))
    class_scores, _ = postprocessor.score(predictions)  # (N, R, C)
    found = [boxes[:limit] for boxes in postprocessor(predictions, locations, images.image_sizes)]
    return [
        (boxes, trace_origins(boxes, of_image, locations, x["instances"].to(class_scores.device), core.assigner))
        for boxes, of_image, x in zip(found, class_scores, batched_inputs, strict=True)
    ]


def trace_origins(
    found: Instances, class_scores: Tensor, locations: Locations, ground_truth: Instances, assigner: FCOSAssigner
) -> BoxOrigins:
    """Compare boxes with the ground truth and with what their locations could learn.

    Args:
        found: K with `pred_boxes`, `scores`, `pred_classes` and `location_idxs`.
        class_scores: (R, C) class probabilities of the image.
        locations: R.
        ground_truth: M with `gt_boxes` and `gt_classes`.
        assigner: whose candidates are asked for.
    """
    iou = pairwise_iou(found.pred_boxes, ground_truth.gt_boxes)  # (K, M)
    location_idxs, box_idxs = assigner.candidates(locations, ground_truth.gt_boxes.tensor)
    is_candidate = iou.new_zeros(len(locations.points), len(ground_truth), dtype=torch.bool)
    is_candidate[location_idxs, box_idxs] = True
    is_candidate = is_candidate[found.location_idxs]  # (K, M)
    # In the RPN role all boxes are of one class.
    gt_classes = ground_truth.gt_classes if assigner.num_classes > 1 else torch.zeros_like(ground_truth.gt_classes)
    is_class = gt_classes[:, None] == gt_classes.unique()  # (M, different classes)
    return BoxOrigins(
        class_scores=class_scores[found.location_idxs, found.pred_classes],
        scores=found.scores,
        ious=torch.cat([iou, iou.new_zeros(len(iou), 1)], dim=1).amax(dim=1),
        num_candidates=is_candidate.sum(dim=1),
        num_classes=(is_candidate[:, :, None] & is_class).any(dim=1).sum(dim=1),
    )


def ambiguous_shares(origins: BoxOrigins) -> dict[str, float]:
    """Compute the percentages of boxes whose location could learn several ground-truth boxes, and boxes of several
    classes (paper, section 4.1.1: 2.3 and 1.5). NaN without boxes."""
    return {
        "all": float(100 * (origins.num_candidates > 1).double().mean()),
        "across_classes": float(100 * (origins.num_classes > 1).double().mean()),
    }


def rank_correlation(scores: Tensor, ious: Tensor) -> float:
    """Compute Spearman's rank correlation of (K,) scores with (K,) IoUs, in [-1, 1]; NaN where it is undefined."""
    x, y = (ranks - ranks.mean() for ranks in (_average_ranks(scores), _average_ranks(ious)))
    return float((x * y).mean() / (x.square().mean() * y.square().mean()).sqrt())


def _average_ranks(values: Tensor) -> Tensor:
    """Return the (K,) ranks of (K,) values from 1, lowest first; equal values get the mean of their ranks."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[inverse]
