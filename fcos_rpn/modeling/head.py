"""FCOS's head: two towers of convolutions, shared by all levels, and three predictors on top (paper, figure 2).

Shapes: N images, L levels, R = Σ Hi·Wi locations (level-major, then row-major), C foreground classes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from ..errors import UserError

NORMS = ("GN", "")
"""Normalizations of the towers: groups of 32 channels, or none."""


class FCOSPredictions(NamedTuple):
    """What the network says at every location: one layout and one unit, in training and inference alike."""

    logits: Tensor
    """(N, R, C) classification, before the sigmoid."""
    ltrb: Tensor
    """(N, R, 4) distances to the left, top, right and bottom sides, >= 0, in strides of the location's level."""
    centerness: Tensor
    """(N, R) before the sigmoid."""


class FCOSHead(nn.Module):
    """Predicts classes, boxes and centerness from a feature pyramid.

    The improved recipe of the authors: centerness sits on the box tower, and box distances are a ReLU of the scaled
    regression, in units of the stride.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        num_classes: int,
        num_convs: int = 4,
        norm: str = "GN",
        use_scale: bool = True,
        prior_prob: float = 0.01,
        initial_distance: float = 1.0,
    ) -> None:
        """
        Args:
            in_channels: channels of every level of the pyramid, and of the towers.
            num_levels: L.
            num_classes: C, foreground only.
            num_convs: depth of each of the two towers.
            norm: normalization of the towers' convolutions, one of `NORMS`.
            use_scale: multiply each level's regression by a learnable scalar (paper, section 3.1).
            prior_prob: what a new head predicts for every class (focal loss paper, section 3.3).
            initial_distance: l, t, r and b that a new head predicts, in strides. Not zero, where a ReLU learns nothing,
                and not far: boxes that must shrink at first overshoot into zero and stay there.
        """
        super().__init__()
        if norm not in NORMS:
            raise UserError(f"MODEL.FCOS.NORM must be one of {', '.join(map(repr, NORMS))}, not {norm!r}")
        self.cls_tower = _tower(in_channels, num_convs, norm)
        self.bbox_tower = _tower(in_channels, num_convs, norm)
        self.cls_logits = nn.Conv2d(in_channels, num_classes, kernel_size=3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, 4, kernel_size=3, padding=1)
        self.centerness = nn.Conv2d(in_channels, 1, kernel_size=3, padding=1)
        self.scales = nn.Parameter(torch.ones(num_levels), requires_grad=use_scale)

        for name, parameter in self.named_parameters():
            if parameter.ndim == 4:
                nn.init.normal_(parameter, std=0.01)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)
        nn.init.constant_(self.get_parameter("cls_logits.bias"), -math.log((1 - prior_prob) / prior_prob))
        nn.init.constant_(self.get_parameter("bbox_pred.bias"), initial_distance)

    def forward(self, features: Sequence[Tensor]) -> FCOSPredictions:
        """
        Args:
            features: L maps (N, in_channels, Hi, Wi), high to low resolution.
        """
        logits, ltrb, centerness = [], [], []
        for feature, scale in zip(features, self.scales, strict=True):
            bbox_feature = self.bbox_tower(feature)
            logits.append(self.cls_logits(self.cls_tower(feature)))
            ltrb.append(torch.relu(self.bbox_pred(bbox_feature) * scale))
            centerness.append(self.centerness(bbox_feature))
        return FCOSPredictions(
            logits=_flatten_levels(logits),  # (N, R, C)
            ltrb=_flatten_levels(ltrb),  # (N, R, 4)
            centerness=_flatten_levels(centerness).squeeze(-1),  # (N, R)
        )


def _tower(channels: int, num_convs: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=norm == ""))
        if norm:
            layers.append(get_norm(norm, channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """L maps (N, K, Hi, Wi) -> (N, R, K)."""
    return torch.cat([level.flatten(start_dim=2) for level in maps], dim=2).transpose(1, 2)
