"""The three losses of FCOS and their normalizers (paper, equation 2, with the authors' later improvements).

Shapes: N images, R locations, C foreground classes, P positives of this process.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F

from ..errors import require_one_of
from .assigner import FCOSTargets
from .focal_loss import focal_loss
from .geometry import compute_centerness
from .head import FCOSPredictions


class _Overlap(NamedTuple):
    """Areas of P pairs of boxes around a common point."""

    intersection: Tensor
    union: Tensor
    hull: Tensor
    """Area of the smallest box that contains both."""
    hull_diagonal: Tensor
    """Square of the diagonal of that box."""


def _overlap(ltrb: Tensor, gt_ltrb: Tensor) -> _Overlap:
    # Boxes around a common point overlap, so that no case needs a mask, for which the host would wait for a GPU.
    hull = _sides(torch.maximum(ltrb, gt_ltrb))
    intersection, area, gt_area = (
        _sides(distances).prod(dim=1) for distances in (torch.minimum(ltrb, gt_ltrb), ltrb, gt_ltrb)
    )
    return _Overlap(
        intersection=intersection,
        union=area + gt_area - intersection,
        hull=hull.prod(dim=1),
        hull_diagonal=hull.square().sum(dim=1),
    )


def _sides(ltrb: Tensor) -> Tensor:
    """(P, 4) distances -> (P, 2) width and height."""
    return ltrb[:, :2] + ltrb[:, 2:]


def compute_iou(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    """Compute the IoU of boxes around a common point, in any unit: (P, 4) >= 0 and (P, 4) > 0 -> (P,)."""
    overlap = _overlap(ltrb, gt_ltrb)
    return overlap.intersection / overlap.union


def _iou_loss(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    return -compute_iou(ltrb, gt_ltrb).clamp(min=torch.finfo(ltrb.dtype).eps).log()


def _linear_iou_loss(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    return 1 - compute_iou(ltrb, gt_ltrb)


def _giou_loss(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    overlap = _overlap(ltrb, gt_ltrb)
    return 1 - overlap.intersection / overlap.union + (overlap.hull - overlap.union) / overlap.hull


def _diou_loss(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    overlap = _overlap(ltrb, gt_ltrb)
    center, gt_center = ((box[:, 2:] - box[:, :2]) / 2 for box in (ltrb, gt_ltrb))
    distance = (center - gt_center).square().sum(dim=1)
    return 1 - overlap.intersection / overlap.union + distance / overlap.hull_diagonal


def _ciou_loss(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    eps = torch.finfo(ltrb.dtype).eps
    width, height = _sides(ltrb).clamp(min=eps).unbind(dim=1)
    gt_width, gt_height = _sides(gt_ltrb).unbind(dim=1)
    v = (4 / math.pi**2) * (torch.atan(gt_width / gt_height) - torch.atan(width / height)).square()
    with torch.no_grad():
        alpha = v / (1 - compute_iou(ltrb, gt_ltrb) + v + eps)
    return _diou_loss(ltrb, gt_ltrb) + alpha * v


def _smooth_l1_loss(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    return F.smooth_l1_loss(ltrb, gt_ltrb, reduction="none").sum(dim=1)


def _l2_loss(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    return F.mse_loss(ltrb, gt_ltrb, reduction="none").sum(dim=1)


BOX_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": _iou_loss,
    "linear_iou": _linear_iou_loss,
    "giou": _giou_loss,
    "diou": _diou_loss,
    "ciou": _ciou_loss,
    "smooth_l1": _smooth_l1_loss,
    "l2": _l2_loss,
}
"""(P, 4) predicted and (P, 4) true distances, in strides -> (P,) losses. "iou" is -log(IoU), "linear_iou" 1 - IoU;
"smooth_l1", which turns from square to linear at one stride, and "l2" are sums over the sides."""

WEIGHTINGS = ("centerness", "none")
"""Weights the box loss of a location by its centerness, or by 1."""


class FCOSLosses:
    """Computes the classification, localization and centerness losses; has no parameters and no state."""

    def __init__(
        self,
        *,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        box_loss: str = "giou",
        box_loss_weight_by: str = "centerness",
        predicts_iou: bool = False,
        cls_weight: float = 1.0,
        loc_weight: float = 1.0,
        ctr_weight: float = 1.0,
    ) -> None:
        """
        Args:
            focal_loss_alpha, focal_loss_gamma: see the focal loss paper, equation 5.
            box_loss: one of `BOX_LOSSES`.
            box_loss_weight_by: one of `WEIGHTINGS`.
            predicts_iou: the centerness branch learns the IoU of the predicted box; the box loss then has no weights.
            cls_weight, loc_weight, ctr_weight: factors of the three losses.

        Raises:
            ArgumentError: on an unknown loss or weighting.
        """
        require_one_of("box_loss", box_loss, BOX_LOSSES)
        require_one_of("box_loss_weight_by", box_loss_weight_by, WEIGHTINGS)
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.box_loss = BOX_LOSSES[box_loss]
        self.is_box_loss_weighted = box_loss_weight_by == "centerness" and not predicts_iou
        self.predicts_iou = predicts_iou
        self.weights = {"cls": cls_weight, "loc": loc_weight, "ctr": ctr_weight}

    def __call__(self, predictions: FCOSPredictions, targets: FCOSTargets) -> dict[str, Tensor]:
        """Compute the losses in float32, whatever the precision of the predictions.

        Without any positive every loss still depends on every prediction, so that all parameters get a gradient and
        all processes run the same collectives.

        Returns:
            Scalars `cls`, `loc` and, if it is predicted, `ctr`. Classification and centerness are divided by the number
            of positives, the box loss by the sum of its weights.
        """
        ltrb = predictions.ltrb.flatten(0, 1)[targets.positives].float()  # (P, 4)
        wanted = self.centerness_targets(ltrb, targets)  # (P,); the centerness where the box loss is weighted
        box_weights = wanted if self.is_box_loss_weighted else torch.ones_like(wanted)
        num_positives, weight_sum = _normalizers(box_weights)

        with torch.autocast(ltrb.device.type, enabled=False):
            losses = {
                "cls": self._classification(predictions.logits, targets) / num_positives,
                "loc": (self.box_loss(ltrb, targets.ltrb) * box_weights).sum() / weight_sum,
            }
            if predictions.centerness is not None:
                predicted = predictions.centerness.flatten()[targets.positives].float()  # (P,)
                losses["ctr"] = F.binary_cross_entropy_with_logits(predicted, wanted, reduction="sum") / num_positives
        return {name: loss * self.weights[name] for name, loss in losses.items()}

    def centerness_targets(self, ltrb: Tensor, targets: FCOSTargets) -> Tensor:
        """Return what the centerness branch learns, (P,): the centerness, or the IoU of (P, 4) predicted distances."""
        return compute_iou(ltrb.detach(), targets.ltrb) if self.predicts_iou else compute_centerness(targets.ltrb)

    def _classification(self, logits: Tensor, targets: FCOSTargets) -> Tensor:
        classes = targets.labels.flatten()[targets.positives]  # (P,)
        return focal_loss(logits, targets.positives, classes, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma)


def _normalizers(box_weights: Tensor) -> Tensor:
    """Count positives and sum their (P,) weights: (2,), each clamp(sum over processes, 1) / number of processes.

    DistributedDataParallel averages gradients over the processes. Dividing by the mean number therefore gives the
    gradient of one process with the whole batch.
    """
    sums = torch.stack([box_weights.new_full((), len(box_weights)), box_weights.sum()])
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(sums)
    return sums.clamp(min=1.0) / comm.get_world_size()
