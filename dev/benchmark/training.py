"""Forward and backward of a whole model, without the optimizer's step.

The paper reports half of RetinaNet's training memory; compare `memory_ratio_to_retinanet`. Detectron2's RetinaNet has
no norm in its towers; ours have GN and keep its inputs for the backward pass.
"""

from collections.abc import Callable, Iterator
from typing import Any

from detectron2.utils.events import EventStorage

from dev.benchmark.inputs import batch
from dev.benchmark.measuring import Comparison, Setup
from dev.benchmark.peers import build_models

CASES = (("R50", (320, 400), 2), ("mobilenet_v2", (320, 240), 8))
QUICK_CASES = (("R50", (64, 96), 2), ("mobilenet_v2", (96, 128), 2))
"""Backbone, height and width of the images, batch."""

NUM_BOXES = 7
"""An image: COCO's mean."""


def comparisons(setup: Setup) -> Iterator[Comparison]:
    for backbone, size, batch_size in QUICK_CASES if setup.is_quick else CASES:
        inputs = batch(batch_size, size, num_boxes=NUM_BOXES, device=setup.device)
        models = build_models(backbone, inputs, setup.device)
        setting = {"backbone": backbone, "size": f"{size[0]}x{size[1]}", "batch": batch_size}
        yield Comparison(setting, {name: training_step(model.train(), inputs, setup) for name, model in models.items()})


def training_step(model: Any, inputs: list[dict[str, Any]], setup: Setup) -> Callable[[], None]:
    """Begin and end without gradients, so that their memory is part of every step."""

    def run() -> None:
        with EventStorage(), setup.autocast():  # detectron2 logs to it
            losses = model(inputs)
        sum(losses.values()).backward()
        model.zero_grad(set_to_none=True)

    return run
