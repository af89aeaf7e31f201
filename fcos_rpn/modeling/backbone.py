"""The pyramids that Detectron2 has no builder for: P6/P7 grown from P5, and torchvision's networks below the FPN."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from ..errors import UserError

STAGES = {2: "stem", 4: "res2", 8: "res3", 16: "res4", 32: "res5"}
"""Stride in pixels -> Detectron2's name of a map of that stride."""


@BACKBONE_REGISTRY.register()
def build_p5_p67_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet, P3–P5 from `MODEL.FPN.IN_FEATURES` (res3–res5), P6 and P7 from P5: the pyramid of FCOS."""
    return _fpn_p67(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_p2_p67_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet, P2–P5 from `MODEL.FPN.IN_FEATURES` (res2–res5), P6 and P7 from P5.

    FCOSRPN can so run on P3–P7 while RoI heads pool from P2–P5, as they do in Detectron2.
    """
    if cfg.MODEL.FPN.IN_FEATURES[0] != "res2":
        raise UserError(
            f"build_p2_p67_resnet_fpn_backbone makes P2, so MODEL.FPN.IN_FEATURES must begin with res2; "
            f"it is {cfg.MODEL.FPN.IN_FEATURES}. Without P2 use build_p5_p67_resnet_fpn_backbone."
        )
    return _fpn_p67(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Any torchvision classification network under an FPN with P6 and P7 from P5; keys in `MODEL.TORCHVISION`.

    Weights load through `MODEL.WEIGHTS`. They want RGB: `INPUT.FORMAT "RGB"`, `MODEL.PIXEL_MEAN
    [123.675, 116.28, 103.53]`, `MODEL.PIXEL_STD [58.395, 57.12, 57.375]`.
    """
    return _fpn_p67(cfg, _torchvision_backbone(cfg))


@BACKBONE_REGISTRY.register()
def build_torchvision_p6_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The same with P6 as every second cell of P5 and no P7: P2–P6 as Detectron2's R-CNNs have it."""
    return _fpn(cfg, _torchvision_backbone(cfg), LastLevelMaxPool())


def _torchvision_backbone(cfg: CfgNode) -> Backbone:
    return TorchvisionBackbone(
        cfg.MODEL.TORCHVISION.NAME,
        nodes=dict(zip(["res2", "res3", "res4", "res5"], cfg.MODEL.TORCHVISION.NODES, strict=False)),
        norm=cfg.MODEL.TORCHVISION.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


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


class _Map(NamedTuple):
    """What a module of a network gives: a map of a stride in pixels, or, with stride 0, something else."""

    module: str
    stride: int
    channels: int


class TorchvisionBackbone(Backbone):
    """The maps of strides 4, 8, 16 and 32 of a torchvision classification network, as res2–res5.

    Parameters keep torchvision's names under `body.`, so that its weights load unchanged.
    """

    def __init__(
        self, name: str, *, nodes: Mapping[str, str] | None = None, norm: str = "FrozenBN", freeze_at: int = 0
    ) -> None:
        """
        Args:
            name: as in `torchvision.models.list_models()`.
            nodes: module that gives each of res2–res5; where none is named, the last block of that stride.
            norm: "FrozenBN" turns batch normalizations into constants, "BN" trains them.
            freeze_at: as Detectron2's FREEZE_AT: 1 freezes what comes before stride 4, k > 1 all up to and
                including res<k>; 0 nothing.

        Raises:
            UserError: on an unknown name or norm, and if a node does not give a map of its stride; lists what would.
        """
        super().__init__()
        if name not in torchvision.models.list_models(torchvision.models):
            known = ", ".join(torchvision.models.list_models(torchvision.models))
            raise UserError(
                f"MODEL.TORCHVISION.NAME: torchvision has no classification network {name!r}. Known: {known}"
            )
        if norm not in ("FrozenBN", "BN"):
            raise UserError(f'MODEL.TORCHVISION.NORM must be "FrozenBN" or "BN", not {norm!r}')
        network = torchvision.models.get_model(name, weights=None)
        maps = _probe(name, network)
        stages = _choose_stages(name, maps, nodes or {})

        self._out_features = [stage for stage in stages if stage != "stem"]
        self._out_feature_strides = {stage: stages[stage].stride for stage in self._out_features}
        self._out_feature_channels = {stage: stages[stage].channels for stage in self._out_features}

        body = create_feature_extractor(network, {stages[stage].module: stage for stage in self._out_features})
        if freeze_at > 0:
            _freeze_until(body, maps, stages, "stem" if freeze_at == 1 else f"res{freeze_at}")
        # Only now: the tracer of the feature extractor does not look into Detectron2's layer.
        self.body = FrozenBatchNorm2d.convert_frozen_batchnorm(body) if norm == "FrozenBN" else body

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps (N, channels, H / stride, W / stride) by name."""
        return self.body(images)


def _probe(name: str, network: nn.Module) -> list[_Map]:
    """Run the network once; what its modules give, in the order in which they finish."""
    height, width = 128, 160  # not square, so that (N, H, W, C) maps are told from (N, C, H, W)
    maps: list[_Map] = []

    def record(module: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            is_batch_of_maps = isinstance(output, Tensor) and output.ndim == 4
            stride = height // output.shape[2] if is_batch_of_maps else 0
            if stride > 0 and output.shape[2:] == (height // stride, width // stride):
                maps.append(_Map(module, stride, output.shape[1]))
            else:
                maps.append(_Map(module, 0, 0))

        return hook

    hooks = [module.register_forward_hook(record(path)) for path, module in network.named_modules() if path]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, height, width))
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"MODEL.TORCHVISION.NAME: {name} does not run on images of any size, so it gives no pyramid ({error})"
        ) from error
    finally:
        network.train()
        for handle in hooks:
            handle.remove()
    return maps


def _choose_stages(name: str, maps: list[_Map], wanted: Mapping[str, str]) -> dict[str, _Map]:
    """A map for each stage: the wanted one, or the last of the outermost modules that give its stride."""
    stages = {}
    for stride, stage in STAGES.items():
        candidates = [found for found in maps if found.stride == stride]
        if stage in wanted:
            candidates = [found for found in candidates if found.module == wanted[stage]]
        if candidates:
            stages[stage] = min(reversed(candidates), key=lambda found: found.module.count("."))
        elif stage != "stem":
            listing = "\n".join(
                f"  {s} (stride {stride}): {', '.join(m.module for m in maps if m.stride == stride) or 'none'}"
                for stride, s in STAGES.items()
            )
            which = f"no module {wanted[stage]!r}" if stage in wanted else "no module"
            raise UserError(
                f"MODEL.TORCHVISION: {name} has {which} that gives an (N, C, H, W) map of stride {stride} for {stage}. "
                f"Modules that give maps:\n{listing}"
            )
    return stages


def _freeze_until(body: nn.Module, maps: list[_Map], stages: Mapping[str, _Map], last: str) -> None:
    """Stop the gradients of all modules that finish before the last frozen stage, and of its own."""
    if last not in stages:
        raise UserError(f"MODEL.BACKBONE.FREEZE_AT: this network has no {last} to freeze")
    modules = dict(body.named_modules())
    for found in maps[: maps.index(stages[last]) + 1]:
        if found.module in modules:
            modules[found.module].requires_grad_(False)
