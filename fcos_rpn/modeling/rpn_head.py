"""The anchor RPN's head with a tower and a normalization, for the paper's control (table 6)."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import nn


@RPN_HEAD_REGISTRY.register()
class NormRPNHead(StandardRPNHead):
    """Detectron2's head, each of whose convolutions is normalized. `MODEL.RPN.CONV_DIMS` is their channels."""

    @configurable
    def __init__(self, *, norm: str = "GN", **kwargs: Any) -> None:
        """
        Args:
            norm: an argument of Detectron2's `get_norm`.
            kwargs: those of `StandardRPNHead`.
        """
        nn.Module.__init__(self)  # the parent's __init__ below builds the convolutions, which need the norm
        self.norm = norm
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "norm": cfg.MODEL.RPN.NORM}

    def _get_rpn_conv(self, in_channels: int, out_channels: int) -> nn.Module:
        return Conv2d(
            in_channels,
            out_channels,
            kernel_size=3,
            padding=1,
            norm=get_norm(self.norm, out_channels),
            activation=nn.ReLU(),
        )
