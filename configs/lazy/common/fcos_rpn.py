"""The RPN role: `FCOSRPN` as `FCOSRPN.from_config` builds it, alone or under Detectron2's RoI heads."""

from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.modeling import ProposalNetwork
from omegaconf import DictConfig

from fcos_rpn import FCOSRPN, FCOSPostProcessor, GeneralizedRCNNWithProposals

from .backbone import resnet_fpn_p67
from .core import fcos_core


def fcos_rpn(cfg: CfgNode) -> DictConfig:
    """The proposal generator of `MODEL.RPN` and `MODEL.FCOS`; it belongs below the model, beside the backbone."""
    rpn, fcos = cfg.MODEL.RPN, cfg.MODEL.FCOS

    def postprocessor(pre_nms_topk: int, post_nms_topk: int) -> DictConfig:
        return L(FCOSPostProcessor)(
            score_thresh=None,
            pre_nms_topk=pre_nms_topk,
            nms_thresh=rpn.NMS_THRESH,
            post_nms_topk=post_nms_topk,
            min_box_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            nms_per_level=fcos.PROPOSAL_NMS_PER_LEVEL,
            score_fusion=fcos.SCORE_FUSION,
            computes_centerness="${fcos_rpn.equal:${..core.head.centerness},computed}",
        )

    return L(FCOSRPN)(
        core=fcos_core(cfg, in_features=rpn.IN_FEATURES, num_classes=1, in_channels="${....backbone.out_channels}"),
        train_postprocessor=postprocessor(rpn.PRE_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TRAIN),
        test_postprocessor=postprocessor(rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TEST),
        loss_weight=rpn.LOSS_WEIGHT,
    )


def proposal_network(cfg: CfgNode) -> DictConfig:
    return L(ProposalNetwork)(
        backbone=resnet_fpn_p67(cfg),
        proposal_generator=fcos_rpn(cfg),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )


def faster_rcnn(cfg: CfgNode) -> DictConfig:
    """With the RoI heads of Detectron2's own LazyConfigs, which pool from P2-P5."""
    roi_heads = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model.roi_heads
    for part in ("mask_in_features", "mask_pooler", "mask_head"):
        del roi_heads[part]
    return L(GeneralizedRCNNWithProposals)(
        backbone=resnet_fpn_p67(cfg),
        proposal_generator=fcos_rpn(cfg),
        roi_heads=roi_heads,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        input_format=cfg.INPUT.FORMAT,
        vis_period=cfg.VIS_PERIOD,
    )
