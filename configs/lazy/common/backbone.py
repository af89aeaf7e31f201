"""Detectron2's ResNet under an FPN with P6 and P7 from P5: `build_p5_p67_resnet_fpn_backbone` and its P2 sibling."""

from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from omegaconf import DictConfig


def resnet_fpn_p67(cfg: CfgNode) -> DictConfig:
    """Describe the backbone of `MODEL.{BACKBONE, RESNETS, FPN}`, for plain ResNets of any depth."""
    resnets, fpn = cfg.MODEL.RESNETS, cfg.MODEL.FPN
    return L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=resnets.STEM_OUT_CHANNELS, norm=resnets.NORM),
            stages=L(ResNet.make_default_stages)(
                depth=resnets.DEPTH, stride_in_1x1=resnets.STRIDE_IN_1X1, norm=resnets.NORM
            ),
            out_features=resnets.OUT_FEATURES,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        ),
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        fuse_type=fpn.FUSE_TYPE,
        top_block=L(LastLevelP6P7)(in_channels="${..out_channels}", out_channels="${..out_channels}", in_feature="p5"),
    )
