"""torchvision's classification networks as Detectron2 backbones."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from ...errors import UserError, require_one_of
from .probe import NORMS, STAGES, probing, stride_of


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
        require_one_of("MODEL.TORCHVISION.NORM", norm, NORMS)
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
        """(N, 3, H, W), or (N, 1, H, W) in gray -> maps (N, channels, H / stride, W / stride) by name."""
        return self.body(images.expand(-1, 3, -1, -1))


def _probe(name: str, network: nn.Module) -> list[_Map]:
    """Run the network once; what its modules give, in the order in which they finish."""
    maps: list[_Map] = []

    def record(module: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            stride = stride_of(output)
            maps.append(_Map(module, stride, output.shape[1] if stride else 0))

        return hook

    hooks = [module.register_forward_hook(record(path)) for path, module in network.named_modules() if path]
    with torch.no_grad(), probing("MODEL.TORCHVISION.NAME", name, network) as image:
        network(image)
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
