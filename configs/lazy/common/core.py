"""What both roles share above the pyramid: `FCOSCore` of `MODEL.FCOS`. Depends on nothing that is set twice."""

from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from fcos_rpn import FCOSAssigner, FCOSCore, FCOSHead, FCOSLosses


def fcos_core(cfg: CfgNode, *, in_features: list[str], num_classes: int, in_channels: str) -> DictConfig:
    """Levels, classes and the channels' place in the config come from the role."""
    fcos = cfg.MODEL.FCOS
    strides = [2 ** int(level[1:]) for level in in_features]
    return L(FCOSCore)(
        in_features=in_features,
        strides=strides,
        head=L(FCOSHead)(
            in_channels=in_channels,
            strides="${..strides}",
            num_classes=num_classes,
            num_convs=fcos.NUM_CONVS,
            num_shared_convs=fcos.NUM_SHARED_CONVS,
            norm=fcos.NORM,
            tower_bias=fcos.TOWER_BIAS,
            use_deformable=fcos.USE_DEFORMABLE,
            bbox_activation=fcos.BBOX_ACTIVATION,
            use_scale=fcos.USE_SCALE,
            centerness=fcos.CENTERNESS,
            prior_prob=fcos.PRIOR_PROB,
        ),
        assigner=L(FCOSAssigner)(
            num_classes="${..head.num_classes}",
            sizes_of_interest=fcos.SIZES_OF_INTEREST or [8.0 * stride for stride in strides[:-1]],
            center_sampling_radius=fcos.CENTER_SAMPLING_RADIUS,
        ),
        losses=L(FCOSLosses)(
            focal_loss_alpha=fcos.FOCAL_LOSS_ALPHA,
            focal_loss_gamma=fcos.FOCAL_LOSS_GAMMA,
            box_loss=fcos.BBOX_REG_LOSS_TYPE,
            box_loss_weight_by=fcos.BBOX_REG_LOSS_WEIGHT_BY,
            predicts_iou="${fcos_rpn.equal:${..head.centerness},iou}",
            cls_weight=fcos.LOSS_WEIGHTS.CLS,
            loc_weight=fcos.LOSS_WEIGHTS.LOC,
            ctr_weight=fcos.LOSS_WEIGHTS.CTR,
        ),
        location_offset=fcos.LOCATION_OFFSET,
    )
