"""timm's networks as Detectron2 backbones."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...errors import ArgumentError, UserError, install_hint, require_one_of
from .probe import NORMS, STAGES, probing, stride_of


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
            stages: those of res2–res5 to return; each is the last map of its stride. Parameters that none of them
                depends on do not train.
            norm: one of `NORMS`.
            freeze_at: 1 freezes the parameters that the map of stride 2 depends on, k > 1 those of res<k>; 0 none.

        Raises:
            UserError: if timm is missing.
            ArgumentError: on an unknown name or norm, if a stride has no map, or if the parameters to freeze are most
                of the network, as in an HRNet.
        """
        super().__init__()
        require_one_of("norm", norm, NORMS)
        strides = {stage: stride for stride, stage in STAGES.items() if stage != "stem"}
        for stage in stages:
            require_one_of("stages", stage, strides)
        network = _create_timm_network(name)
        with probing(name, network) as image:
            maps = network.forward_intermediates(image, output_fmt="NCHW", intermediates_only=True)
        positions = {STAGES[stride_of(found)]: i for i, found in enumerate(maps) if stride_of(found) in STAGES}
        if missing := [stage for stage in stages if stage not in positions]:
            given = [f"{stride} ({stage})" for stage, stride in strides.items() if stage in positions]
            raise ArgumentError(
                "stages",
                f"has {missing[0]}, but {name} has no (N, C, H, W) map of stride {strides[missing[0]]}; it has strides "
                f"{', '.join(given) or 'of none of them'}",
            )

        self._out_features = [stage for stage in positions if stage in stages]
        self._out_feature_strides = {stage: strides[stage] for stage in self._out_features}
        self._out_feature_channels = {stage: maps[positions[stage]].shape[1] for stage in self._out_features}

        wanted = [positions[stage] for stage in self._out_features]
        trained = _parameters_behind([maps[i] for i in wanted], network)
        if freeze_at > 0:
            last = "stem" if freeze_at == 1 else f"res{freeze_at}"
            if last not in positions:
                raise ArgumentError("freeze_at", f"is {freeze_at}, but {name} has no {last} to freeze")
            frozen = _parameters_behind([maps[positions[last]]], network)
            if not frozen <= _parameters_behind(maps[-1:], network):
                raise ArgumentError(
                    "freeze_at",
                    f"is {freeze_at}, but {last} of {name} depends on branches of all strides, so nearly all of the "
                    "network would be frozen; set 0 or 1",
                )
            trained -= frozen
        for parameter in network.parameters():
            parameter.requires_grad_(parameter in trained)

        self.indices = network.prune_intermediate_layers(wanted, prune_norm=True)
        self.body = _freeze_timm_norms(network) if norm == "FrozenBN" else network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), or (N, 1, H, W) in gray -> maps (N, channels, H / stride, W / stride) by name."""
        images = images.expand(-1, 3, -1, -1)
        maps = self.body.forward_intermediates(images, indices=self.indices, output_fmt="NCHW", intermediates_only=True)
        return dict(zip(self._out_features, maps, strict=True))


def _create_timm_network(name: str) -> Any:
    """Create an untrained timm network."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(f"TimmBackbone needs timm, which is not installed: {install_hint('timm')}") from error
    if not timm.is_model(name):  # excludes the names of hubs, from which timm would download
        similar = difflib.get_close_matches(name, timm.list_models(), n=5)
        hint = f"Similar names: {', '.join(similar)}" if similar else "timm.list_models() lists those it has"
        raise ArgumentError("name", f"{name!r} is no network of timm. {hint}")
    return timm.create_model(name, pretrained=False)


def _parameters_behind(maps: Sequence[Tensor], network: nn.Module) -> set[nn.Parameter]:
    """Return the training parameters that the maps depend on."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad([found.sum() for found in maps], parameters, retain_graph=True, allow_unused=True)
    return {parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _freeze_timm_norms(network: nn.Module) -> nn.Module:
    # timm's normalizations may hold an activation, which Detectron2's conversion would drop.
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(network)
