"""`optimize_for_inference`: the same model, faster, without a change to its parameters.

Two things are done to convolutions. Their weights are laid out channels-last, from where the layout spreads over images
and feature maps, since a convolution answers in the layout of its weights. And a frozen batch normalization behind
them, which is a constant scale and shift of each channel, is multiplied into them.

How: a prepared layer changes its class to one that computes with a copy of its weights. It makes the copy when it first
needs one, and anew once one of the tensors that it was made of is another one or has been written to. Parameters,
buffers and their names stay what they are, so that `state_dict`, `load_state_dict`, `to`, `copy.deepcopy` and pickling
need to know nothing. The class also holds the `train` that takes everything back, of a part of a model, too, and
whatever wraps it. The other ways are worse: parametrizations rename the parameters; replaced layers lose them; hooks on
the model miss those who call its backbone alone; a layout that the parameters themselves are given stays behind in
checkpoints and in training, which it slows down on CPUs.

The price is a second copy of the convolutions' weights in memory.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
import torchvision
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from typing_extensions import Self

from ..errors import UserError

Model = TypeVar("Model", bound=nn.Module)


def optimize_for_inference(model: Model) -> Model:
    """Make a model faster at inference, in place, until its next `train()`; its results stay the same up to rounding.

    Prepared are `torch.nn.Conv2d` and Detectron2's `Conv2d`, not their subclasses. Frozen batch normalizations are
    folded, Detectron2's and torchvision's, that are the norm of a Detectron2 convolution, or that an `nn.Sequential` or
    a traced graph runs behind a convolution whose output nobody else sees.

    Where gradients of the weights are wanted, that is without `torch.no_grad()`, layers run as they did before. Weights
    that are loaded or changed in place take effect at the next call; only a change that hides from autograd
    (`parameter.data.copy_(...)`) goes unnoticed.

    Args:
        model: any, in evaluation mode, on any device. To prepare it again does nothing.

    Returns:
        The same model.

    Raises:
        UserError: if the model or a part of it is in training mode, as the deep copy of a torchvision backbone is.
    """
    if training := [name for name, module in model.named_modules() if module.training]:
        which = f"the model's {training[0]}" if training[0] else "the model"
        raise UserError(f"optimize_for_inference: {which} is in training mode; call the model's eval() first")
    for convolution, norm in _pairs(model):
        convolution.__class__, norm.__class__ = _PREPARED[type(convolution)], _FOLDED[type(norm)]
        convolution.partner, norm.partner = _Partner(norm), _Partner(convolution)
    for module in model.modules():
        if _can_be_prepared(module):
            module.__class__ = _PREPARED[type(module)]
    return model


class _Partner(NamedTuple):
    """The other one of a convolution and the norm that runs behind it; a tuple, which hides it from `state_dict`."""

    layer: Any


class _Weights(NamedTuple):
    """What a prepared convolution computes with, and what it was made of."""

    weight: Tensor
    bias: Tensor | None
    sources: Sequence[Tensor | None]
    stamps: Sequence[tuple[int, torch.dtype, torch.device]]

    def are_made_of(self, sources: Sequence[Tensor | None]) -> bool:
        """Whether those were the same tensors, and have neither been moved nor written to since."""
        return (
            len(sources) == len(self.sources)
            and all(now is then for now, then in zip(sources, self.sources, strict=True))
            and _stamps(sources) == self.stamps
        )


def _stamps(tensors: Iterable[Tensor | None]) -> list[tuple[int, torch.dtype, torch.device]]:
    """The version counts writing; `to` changes the others of a parameter, which stays the same object."""
    return [(tensor._version, tensor.dtype, tensor.device) for tensor in tensors if tensor is not None]


class _PreparedConv2d(nn.Conv2d):
    original: ClassVar[type[nn.Module]] = nn.Conv2d
    partner: _Partner | None = None
    weights: _Weights | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.needs_gradients():
            return super().forward(x)
        return self._conv_forward(x, *self.prepared_weights(self.folded_norm()))

    def needs_gradients(self) -> bool:
        return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters(recurse=False))

    def folded_norm(self) -> Any:
        """The norm that the weights include, or None. One that went back to training alone does its own work again."""
        norm = self.partner.layer if self.partner is not None else None
        return norm if isinstance(norm, _FoldedNorm) else None

    def prepared_weights(self, norm: Any) -> tuple[Tensor, Tensor | None]:
        sources = [self.weight, self.bias]
        if norm is not None:
            sources += [norm.running_mean, norm.running_var, norm.weight, norm.bias]
        if self.weights is None or not self.weights.are_made_of(sources):
            self.weights = _prepare(sources, eps=norm.eps if norm is not None else 0.0)
        return self.weights.weight, self.weights.bias

    def train(self, mode: bool = True) -> Self:
        return _take_back(self) if mode else super().train(mode)


class _PreparedDetectron2Conv2d(_PreparedConv2d, Conv2d):
    original: ClassVar[type[nn.Module]] = Conv2d
    norm: Any
    activation: Any

    def forward(self, x: Tensor) -> Tensor:
        if self.needs_gradients():
            return Conv2d.forward(self, x)
        is_folded = type(self.norm) in _FOLDED
        x = self._conv_forward(x, *self.prepared_weights(self.norm if is_folded else None))
        if self.norm is not None and not is_folded:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class _FoldedNorm(nn.Module):
    original: ClassVar[type[nn.Module]]
    partner: _Partner

    def forward(self, x: Tensor) -> Tensor:
        convolution = self.partner.layer
        is_folded = isinstance(convolution, _PreparedConv2d) and not convolution.needs_gradients()
        return x if is_folded else super().forward(x)

    def train(self, mode: bool = True) -> Self:
        return _take_back(self) if mode else super().train(mode)


class _FoldedDetectron2Norm(_FoldedNorm, FrozenBatchNorm2d):
    original: ClassVar[type[nn.Module]] = FrozenBatchNorm2d


class _FoldedTorchvisionNorm(_FoldedNorm, torchvision.ops.FrozenBatchNorm2d):
    original: ClassVar[type[nn.Module]] = torchvision.ops.FrozenBatchNorm2d


_PREPARED: dict[type[nn.Module], Any] = {kind.original: kind for kind in (_PreparedConv2d, _PreparedDetectron2Conv2d)}
_FOLDED: dict[type[nn.Module], Any] = {kind.original: kind for kind in (_FoldedDetectron2Norm, _FoldedTorchvisionNorm)}


def _can_be_prepared(module: nn.Module) -> bool:
    return type(module) in _PREPARED and module.padding_mode == "zeros"


def _take_back(layer: Any) -> Any:
    """To training mode, as the layer that it was."""
    layer.__class__ = layer.original
    for name in ("partner", "weights"):
        layer.__dict__.pop(name, None)
    return layer.train()


@torch.no_grad()
def _prepare(sources: Sequence[Tensor | None], *, eps: float) -> _Weights:
    """
    Args:
        sources: weight and bias of a convolution and, if it is to be folded, mean, variance, weight and bias of a norm.
        eps: that of the norm.
    """
    weight: Any
    bias: Any
    norm: Any
    weight, bias, *norm = sources
    with torch.inference_mode(False):  # the next call may be outside of it, where such tensors fail
        if norm:
            mean, variance, norm_weight, norm_bias = norm
            weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, eps, norm_weight, norm_bias)
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        return _Weights(weight, None if bias is None else bias.detach(), sources, _stamps(sources))


def _pairs(model: nn.Module) -> list[tuple[Any, Any]]:
    """Convolutions, and the frozen norms that run directly behind them and see nothing else."""
    num_places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    return [
        (convolution, norm)
        for module in model.modules()
        for convolution, norm in _consecutive_children(module)
        if type(convolution) is nn.Conv2d
        and _can_be_prepared(convolution)
        and type(norm) in _FOLDED
        and num_places[convolution] == num_places[norm] == 1
    ]


def _consecutive_children(module: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Where it is known that the one's output goes into the other one and nowhere else."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return list(itertools.pairwise(module))
    if not isinstance(module, fx.GraphModule):
        return []
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    num_calls = Counter(node.target for node in calls)
    return [
        (module.get_submodule(node.args[0].target), module.get_submodule(node.target))
        for node in calls
        if node.args
        and node.args[0] in calls
        and len(node.args[0].users) == 1
        and num_calls[node.target] == num_calls[node.args[0].target] == 1
    ]
