"""FCOS's head: two towers of convolutions, shared by all levels, and three predictors on top (paper, figure 2).

A cheaper head shares the first convolutions of both towers, or all of them.

Shapes: N images, L levels, R = Σ Hi·Wi locations (level-major, then row-major), C foreground classes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn

from ..errors import ArgumentError, require_one_of
from .deformable import DeformableConv2d

GN_GROUPS = 32

NORMS = ("GN", "BN", "SyncBN", "")
"""Normalizations of the towers: groups of 32 channels, batch statistics of each level, the same over all processes, or
none."""

BBOX_ACTIVATIONS = ("relu", "exp")
"""Turns the regression x of a level with scale s into distances: ReLU(s·x) strides, or the paper's exp(s·x) pixels."""

CENTERNESS = ("reg", "cls", "none", "computed", "iou")
"""Predicted on the box tower or the classification tower; not used; computed from the predicted box at inference
(paper, table 4); or replaced by the IoU of the predicted box, predicted on the box tower."""

MAX_EXPONENT = math.log(1e4)
"""Limits exp to 10,000 pixels: early in training it could overflow."""


class FCOSPredictions(NamedTuple):
    """The network's output at every location; layout and units are the same in training and at inference."""

    logits: Tensor
    """(N, R, C) classification, before the sigmoid."""
    ltrb: Tensor
    """(N, R, 4) distances to the left, top, right and bottom sides, >= 0, in strides of the location's level."""
    centerness: Tensor | None
    """(N, R) centerness or IoU, before the sigmoid; None if the head does not predict it."""


class FCOSHead(nn.Module):
    """Predicts classes, boxes and centerness from a feature pyramid.

    The defaults are the authors' improved recipe: centerness on the box tower, and box distances as a ReLU of the
    scaled regression, in units of the stride.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        num_convs: int = 4,
        num_shared_convs: int = 0,
        norm: str = "GN",
        tower_bias: bool = False,
        use_deformable: bool = False,
        bbox_activation: str = "relu",
        use_scale: bool = True,
        centerness: str = "reg",
        prior_prob: float = 0.01,
        initial_distance: float = 1.0,
    ) -> None:
        """
        Args:
            in_channels: channels of every level of the pyramid, and of the towers.
            strides: of the L levels, in pixels.
            num_classes: C, foreground only.
            num_convs: depth of each of the two towers.
            num_shared_convs: depth of a tower in front of both.
            norm: normalization of the towers' convolutions, one of `NORMS`.
            tower_bias: give these convolutions a bias before their normalization, as other implementations do. Without
                a normalization they always have one.
            use_deformable: make the last convolution of both towers a deformable one.
            bbox_activation: one of `BBOX_ACTIVATIONS`.
            use_scale: multiply each level's regression by a learnable scalar (paper, section 3.2).
            centerness: one of `CENTERNESS`.
            prior_prob: probability of every class that a new head predicts (focal loss paper, section 3.3).
            initial_distance: l, t, r and b that a new head predicts, in strides; with "exp" in strides of the finest
                level. A ReLU does not learn from 0, and boxes that start too large overshoot to 0.

        Raises:
            ArgumentError: if a value is not allowed.
        """
        super().__init__()
        require_one_of("norm", norm, NORMS)
        require_one_of("bbox_activation", bbox_activation, BBOX_ACTIVATIONS)
        require_one_of("centerness", centerness, CENTERNESS)
        if not 0 < prior_prob < 1:
            raise ArgumentError("prior_prob", f"must be between 0 and 1, not {prior_prob:g}")
        if norm == "GN" and in_channels % GN_GROUPS:
            raise ArgumentError(
                "norm", f"'GN' makes {GN_GROUPS} groups, which do not divide the pyramid's {in_channels} channels"
            )
        for name, depth in (("num_convs", num_convs), ("num_shared_convs", num_shared_convs)):
            if depth < 0:
                raise ArgumentError(name, f"must be 0 or more, not {depth}")
        if use_deformable and num_convs == 0:
            raise ArgumentError("use_deformable", "needs num_convs of at least 1: it replaces the last convolution")
        self.strides = list(strides)
        self.bbox_activation = bbox_activation
        self.is_centerness_on_cls = centerness == "cls"
        self.shared_tower = Tower(in_channels, num_shared_convs, norm, tower_bias, False, len(strides))
        self.cls_tower = Tower(in_channels, num_convs, norm, tower_bias, use_deformable, len(strides))
        self.bbox_tower = Tower(in_channels, num_convs, norm, tower_bias, use_deformable, len(strides))
        self.cls_logits = nn.Conv2d(in_channels, num_classes, kernel_size=3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, 4, kernel_size=3, padding=1)
        is_predicted = centerness in ("reg", "cls", "iou")
        self.centerness = nn.Conv2d(in_channels, 1, kernel_size=3, padding=1) if is_predicted else None
        self.scales = nn.Parameter(torch.ones(len(strides)), requires_grad=use_scale)

        for module in self.modules():
            if isinstance(module, nn.Conv2d | DeformableConv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, DeformableConv2d):
                module.reset_offsets()
        nn.init.constant_(self.get_parameter("cls_logits.bias"), -math.log((1 - prior_prob) / prior_prob))
        if bbox_activation == "exp":
            initial_distance = math.log(initial_distance * strides[0])
        nn.init.constant_(self.get_parameter("bbox_pred.bias"), initial_distance)

    def forward(self, features: Sequence[Tensor]) -> FCOSPredictions:
        """
        Args:
            features: L maps (N, in_channels, Hi, Wi), high to low resolution.
        """
        logits, ltrb, centerness = [], [], []
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            shared_feature = self.shared_tower(feature, level)
            cls_feature = self.cls_tower(shared_feature, level)
            bbox_feature = self.bbox_tower(shared_feature, level)
            logits.append(self.cls_logits(cls_feature))
            ltrb.append(self._distances(self.bbox_pred(bbox_feature) * self.scales[level], stride))
            if self.centerness is not None:
                centerness.append(self.centerness(cls_feature if self.is_centerness_on_cls else bbox_feature))
        return FCOSPredictions(
            logits=_flatten_levels(logits),  # (N, R, C)
            ltrb=_flatten_levels(ltrb),  # (N, R, 4)
            centerness=_flatten_levels(centerness).squeeze(-1) if centerness else None,  # (N, R)
        )

    def _distances(self, regression: Tensor, stride: int) -> Tensor:
        """Turn the scaled regression into distances in strides."""
        if self.bbox_activation == "relu":
            return torch.relu(regression)
        return torch.exp(regression.float().clamp(max=MAX_EXPONENT)) / stride


class Tower(nn.ModuleList):
    """Convolutions that all levels share, each followed by its normalization and a ReLU."""

    def __init__(
        self, channels: int, num_convs: int, norm: str, has_bias: bool, use_deformable: bool, num_levels: int
    ) -> None:
        """Arguments as in `FCOSHead`."""
        super().__init__()
        for number in range(num_convs):
            is_deformable = use_deformable and number == num_convs - 1
            convolution = DeformableConv2d if is_deformable else nn.Conv2d
            self.append(convolution(channels, channels, kernel_size=3, padding=1, bias=has_bias or norm == ""))
            if norm:
                self.append(_norm(norm, channels, num_levels))
            self.append(nn.ReLU(inplace=True))

    def forward(self, feature: Tensor, level: int) -> Tensor:
        """(N, channels, Hi, Wi) of one level -> the same shape."""
        for layer in self:
            feature = layer[level](feature) if isinstance(layer, nn.ModuleList) else layer(feature)
        return feature


def _norm(norm: str, channels: int, num_levels: int) -> nn.Module:
    """Build one layer for all levels, or one per level if it keeps statistics, which differ between levels."""
    if norm == "GN":
        return nn.GroupNorm(GN_GROUPS, channels)
    # Detectron2's, since torch's own synchronizes on GPUs only.
    batch_norm = {"BN": nn.BatchNorm2d, "SyncBN": NaiveSyncBatchNorm}[norm]
    return nn.ModuleList(batch_norm(channels) for _ in range(num_levels))


def _flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """L maps (N, K, Hi, Wi) -> (N, R, K)."""
    return torch.cat([level.flatten(start_dim=2) for level in maps], dim=2).transpose(1, 2)
