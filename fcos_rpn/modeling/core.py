"""FCOSCore: everything above the feature pyramid that learns, the one code path of both roles.

features -> head -> predictions -> (assigner -> targets -> losses). The roles differ in selection, so post-processing
belongs to the shells: `meta_arch.FCOS` and `proposal_generator.FCOSRPN`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor, nn

from ..errors import ArgumentError
from . import keys
from .assigner import FCOSAssigner, default_sizes_of_interest
from .geometry import Locations, compute_locations
from .head import FCOSHead, FCOSPredictions
from .losses import FCOSLosses
from .training_log import log_training_step


def require_levels(in_features: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> None:
    """Require at least one level, all of them among the backbone's.

    Raises:
        ArgumentError: otherwise.
    """
    if not in_features:
        raise ArgumentError("in_features", "is empty: name at least one level of the backbone")
    if unknown := [name for name in in_features if name not in input_shape]:
        names = ", ".join(unknown)
        raise ArgumentError("in_features", f"has {names}, but the backbone gives {', '.join(input_shape)}")


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
        loss_functions: FCOSLosses,
        location_offset: float = 0.5,
    ) -> None:
        """
        Args:
            in_features: names of the L levels used, high to low resolution.
            strides: their strides, in pixels.
            head, assigner, loss_functions: the parts, each also usable alone.
            location_offset: see `compute_locations`.

        Raises:
            ArgumentError: if the assigner is made for another number of levels.
        """
        super().__init__()
        if len(assigner.ranges) != len(in_features):
            raise ArgumentError(
                "sizes_of_interest",
                f"has {len(assigner.ranges) - 1} upper ends, but the {len(in_features)} levels "
                f"{', '.join(in_features)} need {len(in_features) - 1}, one for all but the last; [] is 8 x stride",
            )
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.head = head
        self.assigner = assigner
        self.loss_functions = loss_functions
        self.location_offset = location_offset

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec], *, in_features: Sequence[str], num_classes: int
    ) -> dict[str, Any]:
        """Read `MODEL.FCOS`; `in_features` and `num_classes` come from the role.

        Raises:
            UserError: if the backbone does not have the levels, or a value is not allowed.
        """
        require_levels(in_features, input_shape)
        strides = [input_shape[name].stride for name in in_features]
        channels = {input_shape[name].channels for name in in_features}
        if len(channels) != 1:
            raise ArgumentError(
                "in_features", f"{', '.join(in_features)} must have the same number of channels, not {sorted(channels)}"
            )
        sizes_of_interest = cfg.MODEL.FCOS.SIZES_OF_INTEREST or default_sizes_of_interest(strides)
        head = keys.build(
            FCOSHead, cfg, keys.HEAD, in_channels=channels.pop(), strides=strides, num_classes=num_classes
        )
        return {
            "in_features": in_features,
            "strides": strides,
            "head": head,
            "assigner": keys.build(
                FCOSAssigner, cfg, keys.ASSIGNER, num_classes=num_classes, sizes_of_interest=sizes_of_interest
            ),
            "loss_functions": keys.build(FCOSLosses, cfg, keys.LOSSES, predicts_iou=cfg.MODEL.FCOS.CENTERNESS == "iou"),
            **keys.read(cfg, keys.CORE),
        }

    def forward(self, features: Mapping[str, Tensor]) -> tuple[FCOSPredictions, Locations]:
        """Predict at all locations of the levels.

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

    def losses(
        self,
        predictions: FCOSPredictions,
        locations: Locations,
        gt_instances: Sequence[Instances],
        *,
        role: str,
        weight: float = 1.0,
    ) -> dict[str, Tensor]:
        """Compute the losses of a training step, and log figures of its targets and predictions.

        Args:
            predictions, locations: what `forward` returns for N images.
            gt_instances: N instances with `gt_boxes` and `gt_classes`.
            role: names the losses and the logged figures.
            weight: factor of all losses.

        Returns:
            Scalars `loss_<role>_{cls,loc,ctr}`; `ctr` only if the head predicts it.
        """
        targets = self.assigner(locations, gt_instances)
        log_training_step(
            role, self.in_features, predictions, targets, locations, gt_instances, self.loss_functions, weight
        )
        losses = self.loss_functions(predictions, targets)
        return {f"loss_{role}_{name}": loss * weight for name, loss in losses.items()}
