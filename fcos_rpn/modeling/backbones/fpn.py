"""Builders of pyramids that Detectron2 lacks: P6/P7 from P5, and FPNs on networks other than ResNets."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ...errors import UserError
from .. import keys
from .timm import TimmBackbone
from .torchvision import TorchvisionBackbone


@BACKBONE_REGISTRY.register()
def build_p5_p67_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build FCOS's pyramid on a ResNet: P3–P5 from `MODEL.FPN.IN_FEATURES` (res3–res5), P6 and P7 from P5."""
    return _fpn_p67(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_p2_p67_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build P2–P7 on a ResNet: P2–P5 from `MODEL.FPN.IN_FEATURES` (res2–res5), P6 and P7 from P5.

    FCOSRPN then runs on P3–P7 while RoI heads pool from P2–P5, as they do in Detectron2.
    """
    if cfg.MODEL.FPN.IN_FEATURES[0] != "res2":
        raise UserError(
            f"build_p2_p67_resnet_fpn_backbone makes P2, so MODEL.FPN.IN_FEATURES must begin with res2; "
            f"it is {cfg.MODEL.FPN.IN_FEATURES}. Without P2 use build_p5_p67_resnet_fpn_backbone."
        )
    return _fpn_p67(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build an FPN with P6 and P7 from P5 on any torchvision classification network; keys in `MODEL.TORCHVISION`.

    Weights load through `MODEL.WEIGHTS`. They need RGB: `INPUT.FORMAT "RGB"`, `MODEL.PIXEL_MEAN
    [123.675, 116.28, 103.53]`, `MODEL.PIXEL_STD [58.395, 57.12, 57.375]`.
    """
    return _fpn_p67(cfg, _torchvision_backbone(cfg))


@BACKBONE_REGISTRY.register()
def build_torchvision_p6_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build an FPN on a torchvision network with P6 as every second cell of P5 and no P7, as in Detectron2's R-CNNs."""
    return _fpn(cfg, _torchvision_backbone(cfg), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build an FPN with P6 and P7 from P5 on any timm network with maps of the wanted strides; keys in `MODEL.TIMM`.

    Weights load through `MODEL.WEIGHTS` and need RGB. Mean and deviation are 255 x those of
    `timm.get_pretrained_cfg(NAME)`, mostly the ones above.
    """
    return _fpn_p67(cfg, _timm_backbone(cfg))


@BACKBONE_REGISTRY.register()
def build_timm_p6_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build an FPN on a timm network with P6 as every second cell of P5 and no P7, as in Detectron2's R-CNNs."""
    return _fpn(cfg, _timm_backbone(cfg), LastLevelMaxPool())


def _torchvision_backbone(cfg: CfgNode) -> Backbone:
    nodes = dict(zip(["res2", "res3", "res4", "res5"], cfg.MODEL.TORCHVISION.NODES, strict=False))
    return keys.build(TorchvisionBackbone, cfg, keys.TORCHVISION, nodes=nodes)


def _timm_backbone(cfg: CfgNode) -> Backbone:
    return keys.build(TimmBackbone, cfg, keys.TIMM)


def _fpn_p67(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return _fpn(cfg, bottom_up, LastLevelP6P7(channels, channels, in_feature="p5"))


def _fpn(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
