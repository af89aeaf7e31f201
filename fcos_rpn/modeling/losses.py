"""The three losses of FCOS and what they are divided by (paper, equation 2, with the authors' later improvements).

Shapes: N images, R locations, C foreground classes, P positives of this process.
"""

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from .assigner import FCOSTargets
from .geometry import compute_centerness
from .head import FCOSPredictions


class FCOSLosses:
    """Predictions and targets -> classification, localization and centerness; has no parameters and no state."""

    def __init__(
        self,
        *,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        cls_weight: float = 1.0,
        loc_weight: float = 1.0,
        ctr_weight: float = 1.0,
    ) -> None:
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.weights = {"cls": cls_weight, "loc": loc_weight, "ctr": ctr_weight}

    def __call__(self, predictions: FCOSPredictions, targets: FCOSTargets) -> dict[str, Tensor]:
        """
        Computed in float32 whatever the precision of the predictions. Without any positive every loss still hangs on
        every prediction, so that all parameters get a gradient, and all processes run the same collectives.

        Returns:
            Scalars `cls`, `loc` and `ctr`. Classification and centerness are divided by the number of positives, the
            box loss, which the centerness of each location weighs, by the sum of the centerness.
        """
        logits = predictions.logits.float()  # (N, R, C)
        ltrb = predictions.ltrb.flatten(0, 1)[targets.positives].float()  # (P, 4)
        centerness = predictions.centerness.flatten()[targets.positives].float()  # (P,)
        gt_centerness = compute_centerness(targets.ltrb)  # (P,)
        num_positives, centerness_sum = _normalizers(gt_centerness)

        with torch.autocast(logits.device.type, enabled=False):
            losses = {
                "cls": self._classification(logits, targets.labels) / num_positives,
                "loc": (_giou(ltrb, targets.ltrb) * gt_centerness).sum() / centerness_sum,
                "ctr": F.binary_cross_entropy_with_logits(centerness, gt_centerness, reduction="sum") / num_positives,
            }
        return {name: loss * self.weights[name] for name, loss in losses.items()}

    def _classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        num_classes = logits.shape[-1]
        # The background's column is cut off: it is the class that no sigmoid stands for.
        one_hot = F.one_hot(labels, num_classes + 1)[..., :num_classes].to(logits)  # (N, R, C)
        return sigmoid_focal_loss(
            logits, one_hot, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma, reduction="sum"
        )


def _giou(ltrb: Tensor, gt_ltrb: Tensor) -> Tensor:
    """(P, 4) distances seen from the same point, in any unit -> (P,) generalized IoU losses, which have no unit."""
    toward_sides = ltrb.new_tensor([-1.0, -1.0, 1.0, 1.0])
    return generalized_box_iou_loss(ltrb * toward_sides, gt_ltrb * toward_sides)


def _normalizers(gt_centerness: Tensor) -> Tensor:
    """(P,) of this process -> (2,): positives and summed centerness, each clamp(sum over processes, 1) / processes.

    DistributedDataParallel averages gradients over the processes, so that dividing by the mean number makes them those
    of one process with the whole batch.
    """
    sums = torch.stack([gt_centerness.new_tensor(len(gt_centerness)), gt_centerness.sum()])
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(sums)
    return sums.clamp(min=1.0) / comm.get_world_size()
