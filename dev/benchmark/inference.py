"""Images -> detections, and the model's convolutions alone, the floor for every implementation.

The floor runs the convolutions of our model, channels-last, on inputs of the same shapes, without norms, activations
or anything else.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dev.benchmark.inputs import batch
from dev.benchmark.measuring import FLOOR, OURS, Comparison, Setup
from dev.benchmark.peers import build_models
from fcos_rpn.modeling.optimize import optimize_for_inference

SIZE, QUICK_SIZE = (800, 1067), (160, 224)


def comparisons(
    setup: Setup, *, backbone: str = "R50", size: tuple[int, int] | None = None, batch_size: int = 1
) -> Iterator[Comparison]:
    """
    Args:
        backbone: one of `peers.CONFIGS`.
        size: height and width of the images.
    """
    size = size or (QUICK_SIZE if setup.is_quick else SIZE)
    inputs = batch(batch_size, size, num_boxes=1, device=setup.device)
    models = build_models(backbone, inputs, setup.device)
    ours = models.pop(OURS)
    models = {OURS: ours, f"{OURS}, optimized": optimize_for_inference(ours), **models}
    cases = {name: setup.inference(model, inputs) for name, model in models.items()}
    setting = {"backbone": backbone, "size": f"{size[0]}x{size[1]}", "batch": batch_size}
    yield Comparison(setting, {**cases, FLOOR: setup.inference(convolutions_alone(ours, inputs))})


def convolutions_alone(model: nn.Module, inputs: list[dict[str, Any]]) -> Callable[[], None]:
    """Run all convolutions of a model as it does on these inputs."""
    calls: list[tuple[nn.Conv2d, torch.Size]] = []
    hooks = [
        module.register_forward_pre_hook(lambda convolution, x: calls.append((convolution, x[0].shape)))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()

    maps: dict[torch.Size, Tensor] = {}
    prepared: list[tuple[Tensor, Tensor, nn.Conv2d]] = []
    for convolution, shape in calls:
        weight = convolution.weight.detach()
        if shape not in maps:
            maps[shape] = _channels_last(torch.rand(shape, device=weight.device))
        prepared.append((maps[shape], _channels_last(weight), convolution))

    def run() -> None:
        for x, weight, of in prepared:
            F.conv2d(x, weight, of.bias, of.stride, of.padding, of.dilation, of.groups)

    return run


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
