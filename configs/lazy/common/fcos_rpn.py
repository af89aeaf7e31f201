"""The RPN role: the model that `FCOSRPN.from_config` builds, alone or under Detectron2's RoI heads."""

from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from fcos_rpn import FCOSRPN, FCOSPostProcessor, GeneralizedRCNNWithProposals
from fcos_rpn.modeling import keys
from fcos_rpn.modeling.rcnn import BatchedProposalNetwork

from .backbone import resnet_fpn_p67
from .core import fcos_core


def fcos_rpn(cfg: CfgNode) -> DictConfig:
    """Describe the proposal generator of `MODEL.RPN` and `MODEL.FCOS`; it belongs beside the model's backbone."""
    derived = {"score_thresh": None, "computes_centerness": "${fcos_rpn.equal:${..core.head.centerness},computed}"}
    in_channels = "${....backbone.out_channels}"
    return L(FCOSRPN)(
        core=fcos_core(cfg, **keys.read(cfg, keys.PROPOSER), num_classes=1, in_channels=in_channels),
        train_postprocessor=L(FCOSPostProcessor)(**keys.read(cfg, keys.TRAIN_PROPOSALS, **derived)),
        test_postprocessor=L(FCOSPostProcessor)(**keys.read(cfg, keys.TEST_PROPOSALS, **derived)),
        **keys.read(cfg, keys.PROPOSAL_GENERATOR),
    )


def proposal_network(cfg: CfgNode) -> DictConfig:
    """Describe a proposal network on FCOSRPN."""
    return L(BatchedProposalNetwork)(
        backbone=resnet_fpn_p67(cfg),
        proposal_generator=fcos_rpn(cfg),
        **keys.read(cfg, keys.IMAGES),
    )


def faster_rcnn(cfg: CfgNode) -> DictConfig:
    """Describe a Faster R-CNN with the RoI heads of Detectron2's own LazyConfigs, which pool from P2-P5."""
    roi_heads = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model.roi_heads
    for part in ("mask_in_features", "mask_pooler", "mask_head"):
        del roi_heads[part]
    return L(GeneralizedRCNNWithProposals)(
        backbone=resnet_fpn_p67(cfg),
        proposal_generator=fcos_rpn(cfg),
        roi_heads=roi_heads,
        **keys.read(cfg, keys.IMAGES),
        **keys.read(cfg, keys.PICTURES),
    )
