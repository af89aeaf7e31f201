"""All of FCOS above the feature pyramid that learns: the one code path of both roles.

features -> head -> predictions -> (assigner -> targets -> losses). Selection is where the roles differ, so
post-processing belongs to the shells: `meta_arch.FCOS` and `proposal_generator.FCOSRPN`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..errors import UserError
from .assigner import FCOSAssigner
from .geometry import Locations, compute_locations
from .head import FCOSHead, FCOSPredictions
from .losses import FCOSLosses


def require_levels(in_features: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> None:
    """
    Raises:
        UserError: if there is no level, or one that the backbone does not give.
    """
    if not in_features:
        raise UserError("IN_FEATURES is empty: name at least one level of the backbone")
    if unknown := [name for name in in_features if name not in input_shape]:
        raise UserError(f"IN_FEATURES: the backbone has no {', '.join(unknown)}; it gives {', '.join(input_shape)}")


class FCOSCore(nn.Module):
    """Head, assigner and losses on the levels of a pyramid."""

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        strides: Sequence[int],
        head: FCOSHead,
        assigner: FCOSAssigner,
        losses: FCOSLosses,
        location_offset: float = 0.5,
    ) -> None:
        """
        Args:
            in_features: names of the L levels used, high to low resolution.
            strides: their strides, in pixels.
            head, assigner, losses: the parts, each also usable alone.
            location_offset: see `compute_locations`.
        """
        super().__init__()
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.head = head
        self.assigner = assigner
        self.criterion = losses
        self.location_offset = location_offset

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec], *, in_features: Sequence[str], num_classes: int
    ) -> dict[str, Any]:
        """`in_features` and `num_classes` come from the role; all else is `MODEL.FCOS`.

        Raises:
            UserError: if the levels are not the backbone's, or their number is not that of the sizes of interest.
        """
        fcos = cfg.MODEL.FCOS
        require_levels(in_features, input_shape)
        if fcos.SIZES_OF_INTEREST and len(fcos.SIZES_OF_INTEREST) != len(in_features) - 1:
            raise UserError(
                f"MODEL.FCOS.SIZES_OF_INTEREST {fcos.SIZES_OF_INTEREST}: the {len(in_features)} levels "
                f"{', '.join(in_features)} need {len(in_features) - 1} upper ends, all but the last one's; [] is 8 x "
                "stride"
            )
        if any(low > high for low, high in itertools.pairwise(fcos.SIZES_OF_INTEREST)):
            raise UserError(f"MODEL.FCOS.SIZES_OF_INTEREST {fcos.SIZES_OF_INTEREST} must ascend")
        if fcos.CENTER_SAMPLING_RADIUS < 0:
            raise UserError(f"MODEL.FCOS.CENTER_SAMPLING_RADIUS {fcos.CENTER_SAMPLING_RADIUS:g} must be 0.0 or more")
        strides = [input_shape[name].stride for name in in_features]
        channels = {input_shape[name].channels for name in in_features}
        if len(channels) != 1:
            raise ValueError(f"the levels {list(in_features)} must have the same number of channels, got {channels}")
        return {
            "in_features": in_features,
            "strides": strides,
            "head": FCOSHead(
                in_channels=channels.pop(),
                strides=strides,
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
            "assigner": FCOSAssigner(
                num_classes=num_classes,
                sizes_of_interest=fcos.SIZES_OF_INTEREST or [8.0 * stride for stride in strides[:-1]],
                center_sampling_radius=fcos.CENTER_SAMPLING_RADIUS,
            ),
            "losses": FCOSLosses(
                focal_loss_alpha=fcos.FOCAL_LOSS_ALPHA,
                focal_loss_gamma=fcos.FOCAL_LOSS_GAMMA,
                box_loss=fcos.BBOX_REG_LOSS_TYPE,
                box_loss_weight_by=fcos.BBOX_REG_LOSS_WEIGHT_BY,
                predicts_iou=fcos.CENTERNESS == "iou",
                cls_weight=fcos.LOSS_WEIGHTS.CLS,
                loc_weight=fcos.LOSS_WEIGHTS.LOC,
                ctr_weight=fcos.LOSS_WEIGHTS.CTR,
            ),
            "location_offset": fcos.LOCATION_OFFSET,
        }

    def forward(self, features: Mapping[str, Tensor]) -> tuple[FCOSPredictions, Locations]:
        """
        Args:
            features: at least the L levels by name, each (N, channels, Hi, Wi).
        """
        levels = [features[name] for name in self.in_features]
        locations = compute_locations(
            [(level.shape[-2], level.shape[-1]) for level in levels],
            self.strides,
            offset=self.location_offset,
            device=levels[0].device,
        )
        return self.head(levels), locations
