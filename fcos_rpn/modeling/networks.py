"""torchvision's and timm's networks as Detectron2 backbones: maps of strides 4, 8, 16 and 32 below an FPN."""

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from ..errors import UserError, install_hint, require_one_of

STAGES = {2: "stem", 4: "res2", 8: "res3", 16: "res4", 32: "res5"}
"""Stride in pixels -> Detectron2's name of a map of that stride."""

NORMS = ("FrozenBN", "BN")
"""Batch normalizations as constants, or trained."""

PROBE_SIZE = (128, 160)
"""Height and width of the image on which networks are tried; not square, so that (N, H, W, C) maps are told from
(N, C, H, W)."""


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
        """(N, 3, H, W) -> maps (N, channels, H / stride, W / stride) by name."""
        return self.body(images)


def _probe(name: str, network: nn.Module) -> list[_Map]:
    """Run the network once; what its modules give, in the order in which they finish."""
    maps: list[_Map] = []

    def record(module: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            stride = _stride(output)
            maps.append(_Map(module, stride, output.shape[1] if stride else 0))

        return hook

    hooks = [module.register_forward_hook(record(path)) for path, module in network.named_modules() if path]
    with torch.no_grad(), _probing("MODEL.TORCHVISION.NAME", name, network) as image:
        network(image)
    for handle in hooks:
        handle.remove()
    return maps


@contextlib.contextmanager
def _probing(key: str, name: str, network: nn.Module) -> Iterator[Tensor]:
    """An image of `PROBE_SIZE` for the network, which is in evaluation mode meanwhile."""
    network.eval()
    try:
        yield torch.zeros(1, 3, *PROBE_SIZE)
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"{key}: {name} does not run on images of any size, so it gives no pyramid ({error})"
        ) from error
    finally:
        network.train()


def _stride(output: Any) -> int:
    """Of an (N, C, H, W) map of the probed image, in pixels; 0 for anything else."""
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[2] == 0:
        return 0
    stride = PROBE_SIZE[0] // output.shape[2]
    return stride if stride > 0 and output.shape[2:] == tuple(side // stride for side in PROBE_SIZE) else 0


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


class TimmBackbone(Backbone):
    """The maps of strides 4, 8, 16 and 32 of one of timm's networks, as res2–res5.

    Parameters keep timm's names under `body.`, so that its weights load unchanged.
    """

    body: Any

    def __init__(
        self, name: str, *, stages: Sequence[str] = ("res3", "res4", "res5"), norm: str = "FrozenBN", freeze_at: int = 0
    ) -> None:
        """
        Args:
            name: as in `timm.list_models()`; a tag of weights, as in "resnet18.a1_in1k", changes nothing.
            stages: those of res2–res5 that are wanted; each is the last map of its stride. What none of them depends
                on does not train.
            norm: one of `NORMS`.
            freeze_at: 1 freezes all that the map of stride 2 depends on, k > 1 all that res<k> does; 0 nothing.

        Raises:
            UserError: if timm is missing, on an unknown name or norm, if there is no map of a stride, and if what is to
                be frozen cannot be told from the rest, as in an HRNet.
        """
        super().__init__()
        require_one_of("MODEL.TIMM.NORM", norm, NORMS)
        strides = {stage: stride for stride, stage in STAGES.items() if stage != "stem"}
        for stage in stages:
            require_one_of("MODEL.FPN.IN_FEATURES", stage, strides)
        network = _create_timm_network(name)
        with _probing("MODEL.TIMM.NAME", name, network) as image:
            maps = network.forward_intermediates(image, output_fmt="NCHW", intermediates_only=True)
        positions = {STAGES[_stride(found)]: i for i, found in enumerate(maps) if _stride(found) in STAGES}
        if missing := [stage for stage in stages if stage not in positions]:
            given = [f"{stride} ({stage})" for stage, stride in strides.items() if stage in positions]
            raise UserError(
                f"MODEL.TIMM.NAME: {name} has no (N, C, H, W) map of stride {strides[missing[0]]} for {missing[0]}, "
                f"which MODEL.FPN.IN_FEATURES asks for; it has strides {', '.join(given) or 'of none of them'}"
            )

        self._out_features = [stage for stage in positions if stage in stages]
        self._out_feature_strides = {stage: strides[stage] for stage in self._out_features}
        self._out_feature_channels = {stage: maps[positions[stage]].shape[1] for stage in self._out_features}

        wanted = [positions[stage] for stage in self._out_features]
        trained = _parameters_behind([maps[i] for i in wanted], network)
        if freeze_at > 0:
            last = "stem" if freeze_at == 1 else f"res{freeze_at}"
            if last not in positions:
                raise UserError(f"MODEL.BACKBONE.FREEZE_AT: this network has no {last} to freeze")
            frozen = _parameters_behind([maps[positions[last]]], network)
            if not frozen <= _parameters_behind(maps[-1:], network):
                raise UserError(
                    f"MODEL.BACKBONE.FREEZE_AT {freeze_at}: {last} of {name} has branches of all strides behind it, so "
                    "nearly all of the network would be frozen; set 0 or 1"
                )
            trained -= frozen
        for parameter in network.parameters():
            parameter.requires_grad_(parameter in trained)

        self.indices = network.prune_intermediate_layers(wanted, prune_norm=True)
        self.body = _freeze_timm_norms(network) if norm == "FrozenBN" else network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps (N, channels, H / stride, W / stride) by name."""
        maps = self.body.forward_intermediates(images, indices=self.indices, output_fmt="NCHW", intermediates_only=True)
        return dict(zip(self._out_features, maps, strict=True))


def _create_timm_network(name: str) -> Any:
    """With random weights."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(f"MODEL.TIMM needs timm, which is not installed: {install_hint('timm')}") from error
    if not timm.is_model(name):  # so much for the names of hubs, too, from which timm would download
        similar = difflib.get_close_matches(name, timm.list_models(), n=5)
        hint = f"Similar names: {', '.join(similar)}" if similar else "timm.list_models() lists those it has"
        raise UserError(f"MODEL.TIMM.NAME: timm has no network {name!r}. {hint}")
    return timm.create_model(name, pretrained=False)


def _parameters_behind(maps: Sequence[Tensor], network: nn.Module) -> set[nn.Parameter]:
    """Those that the maps depend on, and that train."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad([found.sum() for found in maps], parameters, retain_graph=True, allow_unused=True)
    return {parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _freeze_timm_norms(network: nn.Module) -> nn.Module:
    # timm's normalizations may hold an activation, which Detectron2's conversion would drop.
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(network)
