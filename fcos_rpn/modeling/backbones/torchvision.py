"""torchvision's classification networks as Detectron2 backbones."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from ...errors import ArgumentError, require_one_of
from .probe import NORMS, STAGES, probing, stride_of


class _Map(NamedTuple):
    """The output of a module: a map of a stride in pixels; stride 0 is any other output."""

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
            nodes: the module that gives each of res2–res5; by default the last block of that stride.
            norm: "FrozenBN" turns batch normalizations into constants, "BN" trains them.
            freeze_at: as Detectron2's FREEZE_AT: 1 freezes what comes before stride 4, k > 1 all up to and
                including res<k>; 0 nothing.

        Raises:
            ArgumentError: on an unknown name or norm, or if no module gives a map of a stride; lists those that do.
        """
        super().__init__()
        known = torchvision.models.list_models(torchvision.models)
        if name not in known:
            raise ArgumentError("name", f"{name!r} is no classification network of torchvision: {', '.join(known)}")
        require_one_of("norm", norm, NORMS)
        network = torchvision.models.get_model(name, weights=None)
        maps = _probe(name, network)
        stages = _choose_stages(name, maps, nodes or {})

        self._out_features = [stage for stage in stages if stage != "stem"]
        self._out_feature_strides = {stage: stages[stage].stride for stage in self._out_features}
        self._out_feature_channels = {stage: stages[stage].channels for stage in self._out_features}

        traced = create_feature_extractor(network, {stages[stage].module: stage for stage in self._out_features})
        # One graph for both modes: torchvision's pair of graphs cannot be pickled, and its copies forget their mode.
        # What differs between the modes is in modules, such as dropout, but for auxiliary classifiers.
        body = fx.GraphModule(traced, traced.eval_graph)
        if freeze_at > 0:
            _freeze_until(body, maps, stages, freeze_at)
        # Converted last: the tracer of the feature extractor cannot trace Detectron2's layer.
        self.body = FrozenBatchNorm2d.convert_frozen_batchnorm(body) if norm == "FrozenBN" else body

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), or (N, 1, H, W) in gray -> maps (N, channels, H / stride, W / stride) by name."""
        return self.body(images.expand(-1, 3, -1, -1))


def _probe(name: str, network: nn.Module) -> list[_Map]:
    """Run the network once and return the outputs of its modules, in the order in which they finish."""
    maps: list[_Map] = []

    def record(module: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            stride = stride_of(output)
            maps.append(_Map(module, stride, output.shape[1] if stride else 0))

        return hook

    hooks = [module.register_forward_hook(record(path)) for path, module in network.named_modules() if path]
    with torch.no_grad(), probing(name, network) as image:
        network(image)
    for handle in hooks:
        handle.remove()
    return maps


def _choose_stages(name: str, maps: list[_Map], wanted: Mapping[str, str]) -> dict[str, _Map]:
    """Choose a map for each stage: the wanted one, or the last of the outermost modules that give its stride."""
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
            which = f"{wanted[stage]!r} does not" if stage in wanted else "none does"
            raise ArgumentError(
                "nodes",
                f"must be modules of {name} that give (N, C, H, W) maps; for {stage} (stride {stride}) {which}. "
                f"Modules that give maps:\n{listing}",
            )
    return stages


def _freeze_until(body: nn.Module, maps: list[_Map], stages: Mapping[str, _Map], freeze_at: int) -> None:
    """Stop the gradients of all modules that finish up to the end of the last frozen stage."""
    last = "stem" if freeze_at == 1 else f"res{freeze_at}"
    if last not in stages:
        raise ArgumentError("freeze_at", f"is {freeze_at}, but this network has no {last} to freeze")
    modules = dict(body.named_modules())
    for found in maps[: maps.index(stages[last]) + 1]:
        if found.module in modules:
            modules[found.module].requires_grad_(False)
