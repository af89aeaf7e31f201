"""Shell B: FCOS as the proposal generator of an R-CNN, features -> proposals (paper, section 5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from .core import FCOSCore
from .head import FCOSPredictions
from .postprocess import FCOSPostProcessor
from .training_log import log_predictions, log_targets

MAX_LOGIT = 23.0
"""Detectron2 appends ground truth to the proposals at logit(1 - 1e-10) ≈ 23: no proposal shall be surer."""


@PROPOSAL_GENERATOR_REGISTRY.register()
class FCOSRPN(nn.Module):
    """Replaces Detectron2's RPN under `GeneralizedRCNN` and `ProposalNetwork`. `FCOS` is the other role of the core."""

    @configurable
    def __init__(
        self,
        *,
        core: FCOSCore,
        train_postprocessor: FCOSPostProcessor,
        test_postprocessor: FCOSPostProcessor,
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            core: with one class.
            train_postprocessor, test_postprocessor: select the proposals in training and at inference.
            loss_weight: factor of all three losses.
        """
        super().__init__()
        self.core = core
        self.train_postprocessor = train_postprocessor
        self.test_postprocessor = test_postprocessor
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Levels and budgets are Detectron2's `MODEL.RPN`, so that its configs keep their meaning."""
        rpn, fcos = cfg.MODEL.RPN, cfg.MODEL.FCOS

        def postprocessor(pre_nms_topk: int, post_nms_topk: int) -> FCOSPostProcessor:
            return FCOSPostProcessor(
                score_thresh=None,
                pre_nms_topk=pre_nms_topk,
                nms_thresh=rpn.NMS_THRESH,
                post_nms_topk=post_nms_topk,
                min_box_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
                nms_per_level=fcos.PROPOSAL_NMS_PER_LEVEL,
                score_fusion=fcos.SCORE_FUSION,
                computes_centerness=fcos.CENTERNESS == "computed",
            )

        return {
            "core": FCOSCore(cfg, input_shape, in_features=rpn.IN_FEATURES, num_classes=1),
            "train_postprocessor": postprocessor(rpn.PRE_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TRAIN),
            "test_postprocessor": postprocessor(rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TEST),
            "loss_weight": rpn.LOSS_WEIGHT,
        }

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], gt_instances: Sequence[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: N images; only their sizes are used.
            features: named levels of the pyramid.
            gt_instances: N instances with `gt_boxes`; needed in training. Left as they are.

        Returns:
            N instances with exactly `proposal_boxes` (pixels, within the image) and `objectness_logits`, best first,
            and the losses `loss_rpn_{cls,loc,ctr}` (`ctr` if it is predicted), empty at inference.

        Raises:
            FloatingPointError: in training, in all processes, if a prediction of one is not finite.
        """
        predictions, locations = self.core(features)

        losses: dict[str, Tensor] = {}
        if self.training:
            _require_finite(predictions)
            if gt_instances is None:
                raise ValueError("FCOSRPN needs gt_instances in training")
            agnostic = [_class_agnostic(instances) for instances in gt_instances]
            targets = self.core.assigner(locations, agnostic)
            log_targets("rpn", self.core.in_features, targets, locations, agnostic)
            log_predictions("rpn", predictions, targets)
            losses = {
                f"loss_rpn_{name}": loss * self.loss_weight
                for name, loss in self.core.criterion(predictions, targets).items()
            }

        postprocessor = self.train_postprocessor if self.training else self.test_postprocessor
        proposals = [to_proposals(found) for found in postprocessor(predictions, locations, images.image_sizes)]
        return proposals, losses


def _class_agnostic(gt_instances: Instances) -> Instances:
    """A relabelled copy: the box head still needs the real classes."""
    boxes = gt_instances.gt_boxes
    classes = torch.zeros(len(gt_instances), dtype=torch.int64, device=boxes.device)
    return Instances(gt_instances.image_size, gt_boxes=boxes, gt_classes=classes)


def to_proposals(instances: Instances) -> Instances:
    """Selected boxes under the names of Detectron2's proposals, with `objectness_logits` the logit of their score.

    Nothing else is carried over: RoI heads append ground truth to proposals, which fails if these have more fields.
    """
    return Instances(
        instances.image_size,
        proposal_boxes=instances.pred_boxes,
        objectness_logits=torch.logit(instances.scores).clamp(-MAX_LOGIT, MAX_LOGIT),
    )


def _require_finite(predictions: FCOSPredictions) -> None:
    """Of all processes: one that stopped alone would leave the others waiting for it."""
    predicted = [prediction.detach() for prediction in predictions if prediction is not None]
    is_finite = torch.stack([prediction.isfinite().all() for prediction in predicted]).all().float()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(is_finite, op=torch.distributed.ReduceOp.MIN)
    if not is_finite:  # one answer for all, since a GPU is waited for here
        raise FloatingPointError("FCOSRPN predicted infinite or NaN values. Training has diverged.")
