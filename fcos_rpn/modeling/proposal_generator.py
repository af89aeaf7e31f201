"""FCOS as the proposal generator of an R-CNN: features -> proposals (paper, section 5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from . import keys
from .core import FCOSCore
from .head import FCOSPredictions
from .postprocess import FCOSPostProcessor

MAX_LOGIT = 23.0
"""Detectron2 appends ground truth to the proposals at logit(1 - 1e-10) ≈ 23. Proposals are clamped to it."""


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
            core: has one class.
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
        """Read levels and budgets from Detectron2's `MODEL.RPN`, and the rest from `MODEL.FCOS`."""
        derived = {"score_thresh": None, "computes_centerness": cfg.MODEL.FCOS.CENTERNESS == "computed"}
        with keys.naming_keys({**keys.PROPOSER, **keys.ASSIGNER}):
            core = FCOSCore(cfg, input_shape, **keys.read(cfg, keys.PROPOSER), num_classes=1)
        return {
            "core": core,
            "train_postprocessor": keys.build(FCOSPostProcessor, cfg, keys.TRAIN_PROPOSALS, **derived),
            "test_postprocessor": keys.build(FCOSPostProcessor, cfg, keys.TEST_PROPOSALS, **derived),
            **keys.read(cfg, keys.PROPOSAL_GENERATOR),
        }

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], gt_instances: Sequence[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes, and compute losses in training.

        Args:
            images: N images; only their sizes are used.
            features: named levels of the pyramid.
            gt_instances: N instances with `gt_boxes`; needed in training, and not modified.

        Returns:
            N instances with exactly `proposal_boxes` (pixels, within the image) and `objectness_logits`, best first,
            and the losses `loss_rpn_{cls,loc,ctr}` (without `ctr` if it is not predicted), empty at inference.

        Raises:
            FloatingPointError: in training, in all processes, if a prediction of any of them is not finite.
        """
        predictions, locations = self.core(features)

        losses: dict[str, Tensor] = {}
        if self.training:
            _require_finite(predictions)
            if gt_instances is None:
                raise ValueError("FCOSRPN needs gt_instances in training")
            agnostic = [_class_agnostic(instances) for instances in gt_instances]
            losses = self.core.losses(predictions, locations, agnostic, role="rpn", weight=self.loss_weight)

        postprocessor = self.train_postprocessor if self.training else self.test_postprocessor
        proposals = [to_proposals(found) for found in postprocessor(predictions, locations, images.image_sizes)]
        return proposals, losses


def _class_agnostic(gt_instances: Instances) -> Instances:
    """Return a copy with one class: the box head still needs the real classes."""
    boxes = gt_instances.gt_boxes
    classes = torch.zeros(len(gt_instances), dtype=torch.int64, device=boxes.device)
    return Instances(gt_instances.image_size, gt_boxes=boxes, gt_classes=classes)


def to_proposals(instances: Instances) -> Instances:
    """Rename the fields to those of Detectron2's proposals; `objectness_logits` is the logit of the score.

    Other fields are dropped: RoI heads append ground truth to proposals, which fails if these have more fields.
    """
    return Instances(
        instances.image_size,
        proposal_boxes=instances.pred_boxes,
        objectness_logits=torch.logit(instances.scores).clamp(-MAX_LOGIT, MAX_LOGIT),
    )


def _require_finite(predictions: FCOSPredictions) -> None:
    """Raise in all processes: if one stopped alone, the others would wait for it."""
    predicted = [prediction.detach() for prediction in predictions if prediction is not None]
    is_finite = torch.stack([prediction.isfinite().all() for prediction in predicted]).all().float()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(is_finite, op=torch.distributed.ReduceOp.MIN)
    if not is_finite:  # the host waits for a GPU here, once for all predictions
        raise FloatingPointError("FCOSRPN predicted infinite or NaN values. Training has diverged.")
