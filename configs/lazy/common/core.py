"""`FCOSCore` with every part in view, for both roles."""

from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from fcos_rpn import FCOSAssigner, FCOSCore, FCOSHead, FCOSLosses
from fcos_rpn.modeling import keys
from fcos_rpn.modeling.assigner import default_sizes_of_interest


def fcos_core(cfg: CfgNode, *, in_features: list[str], num_classes: int, in_channels: str) -> DictConfig:
    """Describe the core of `MODEL.FCOS`; levels, classes and the place of the channels come from the role."""
    strides = [2 ** int(level[1:]) for level in in_features]
    sizes_of_interest = cfg.MODEL.FCOS.SIZES_OF_INTEREST or default_sizes_of_interest(strides)
    predicts_iou = "${fcos_rpn.equal:${..head.centerness},iou}"
    head = keys.read(cfg, keys.HEAD, in_channels=in_channels, strides="${..strides}", num_classes=num_classes)
    assigner = keys.read(cfg, keys.ASSIGNER, num_classes="${..head.num_classes}", sizes_of_interest=sizes_of_interest)
    return L(FCOSCore)(
        in_features=in_features,
        strides=strides,
        head=L(FCOSHead)(**head),
        assigner=L(FCOSAssigner)(**assigner),
        loss_functions=L(FCOSLosses)(**keys.read(cfg, keys.LOSSES, predicts_iou=predicts_iou)),
        **keys.read(cfg, keys.CORE),
    )
