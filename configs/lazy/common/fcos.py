"""The one-stage role: `FCOS` as `FCOS.from_config` builds it, with every part in view."""

from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from fcos_rpn import FCOS, FCOSPostProcessor

from .backbone import resnet_fpn_p67
from .core import fcos_core


def one_stage(cfg: CfgNode) -> DictConfig:
    fcos = cfg.MODEL.FCOS
    return L(FCOS)(
        backbone=resnet_fpn_p67(cfg),
        core=fcos_core(
            cfg,
            in_features=fcos.IN_FEATURES,
            num_classes=fcos.NUM_CLASSES,
            in_channels="${...backbone.out_channels}",
        ),
        postprocessor=L(FCOSPostProcessor)(
            score_thresh=fcos.SCORE_THRESH_TEST,
            pre_nms_topk=fcos.TOPK_CANDIDATES_TEST,
            nms_thresh=fcos.NMS_THRESH_TEST,
            post_nms_topk=cfg.TEST.DETECTIONS_PER_IMAGE,
            score_fusion=fcos.SCORE_FUSION,
            thresh_on=fcos.THRESH_ON,
            computes_centerness="${fcos_rpn.equal:${..core.head.centerness},computed}",
        ),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        input_format=cfg.INPUT.FORMAT,
        vis_period=cfg.VIS_PERIOD,
    )
