"""The one-stage role: the model that `FCOS.from_config` builds, with every part in view."""

from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from fcos_rpn import FCOS, FCOSPostProcessor
from fcos_rpn.modeling import keys

from .backbone import resnet_fpn_p67
from .core import fcos_core


def one_stage(cfg: CfgNode) -> DictConfig:
    """Describe an `FCOS`."""
    computes_centerness = "${fcos_rpn.equal:${..core.head.centerness},computed}"
    return L(FCOS)(
        backbone=resnet_fpn_p67(cfg),
        core=fcos_core(cfg, **keys.read(cfg, keys.DETECTOR), in_channels="${...backbone.out_channels}"),
        postprocessor=L(FCOSPostProcessor)(**keys.read(cfg, keys.DETECTIONS, computes_centerness=computes_centerness)),
        **keys.read(cfg, keys.IMAGES),
        **keys.read(cfg, keys.PICTURES),
    )
