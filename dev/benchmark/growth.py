"""Growth of each step's time and memory with the size of an image, the batch, the boxes and the classes.

One of them is doubled or more while the others stay. A slope of 1 is proportional growth, of 0 none.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from dev.benchmark.assignment import our_assignment
from dev.benchmark.evaluation import random_annotations, random_outputs
from dev.benchmark.inputs import FCOS_STRIDES, SEED, grid_sizes, ground_truth, locations_of
from dev.benchmark.losses import our_losses, random_predictions, with_gradients
from dev.benchmark.measuring import Comparison, Memory, Setup
from fcos_rpn.evaluation import average_recall
from fcos_rpn.modeling.postprocess import FCOSPostProcessor

RADIUS = 1.5
CHANNELS = 256


class Load(NamedTuple):
    """The input of a step."""

    pixels: int = 400 * 544
    """Of an image with sides as 3 to 4."""
    batch: int = 2
    boxes: int = 10
    """Ground truth of an image."""
    classes: int = 80

    @property
    def size(self) -> tuple[int, int]:
        height = round((self.pixels * 3 / 4) ** 0.5)
        return height, round(self.pixels / height)


VALUES = {
    "pixels": [160 * 213, 320 * 427, 640 * 853, 1280 * 1707],
    "batch": [1, 2, 4, 8, 16],
    "boxes": [1, 10, 100, 1000],
    "classes": [5, 20, 80, 320, 1280],
}
QUICK_VALUES = {"pixels": [96 * 128, 192 * 256], "batch": [1, 2], "boxes": [10, 100], "classes": [20, 80]}


def comparisons(setup: Setup) -> Iterator[Comparison]:
    """Compare the values of each of `VALUES`, for each step."""
    base = Load(pixels=128 * 171, batch=1) if setup.is_quick else Load()
    for step, prepare in STEPS.items():
        for against, values in (QUICK_VALUES if setup.is_quick else VALUES).items():
            cases = {str(value): prepare(base._replace(**{against: value}), setup) for value in values}
            memory: Memory = "process" if step == "evaluate" else "torch"
            yield Comparison({"step": step, "against": against}, cases, memory=memory, seconds=30)


def assign(load: Load, setup: Setup) -> Callable[[], Any]:
    locations = locations_of(load.size, FCOS_STRIDES, setup.device)
    gt = ground_truth(load.batch, load.size, num_boxes=load.boxes, num_classes=load.classes, device=setup.device)
    return our_assignment(locations, gt, radius=RADIUS, num_classes=load.classes)


def loss(load: Load, setup: Setup) -> Callable[[], Any]:
    """Forward and backward."""
    locations = locations_of(load.size, FCOS_STRIDES, setup.device)
    levels = random_predictions(locations, load.batch, num_classes=load.classes)
    return with_gradients(our_losses(levels, assign(load, setup)()), levels)


def select(load: Load, setup: Setup) -> Callable[[], Any]:
    """Selection of a detector; about one in 700 pairs of a location and a class is above the threshold."""
    locations = locations_of(load.size, FCOS_STRIDES, setup.device)
    levels = random_predictions(locations, load.batch, num_classes=load.classes, mean_logit=-6.0)
    with torch.no_grad():
        predictions = levels.joined()
    select = FCOSPostProcessor(score_thresh=0.05, pre_nms_topk=1000, nms_thresh=0.6, post_nms_topk=100)
    return lambda: select(predictions, locations, [load.size] * load.batch)


def evaluate(load: Load, setup: Setup) -> Callable[[], Any]:
    """AR100 and AR1k of a batch of images with 1000 proposals each."""
    content = random_annotations(load.batch, num_boxes=load.boxes)
    proposals = {
        image["id"]: (output["proposals"].proposal_boxes.tensor, output["proposals"].objectness_logits)
        for image, output in zip(content["images"], random_outputs(content), strict=True)
    }
    return lambda: average_recall(content, proposals)


def convolution(load: Load, setup: Setup) -> Callable[[], Any]:
    """One convolution of the head on P3, for comparison."""
    generator = torch.Generator().manual_seed(SEED)
    grid = grid_sizes(load.size, FCOS_STRIDES)[0]
    x = torch.randn(load.batch, CHANNELS, *grid, generator=generator).to(setup.device)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=generator).to(setup.device)
    return lambda: F.conv2d(x, weight, padding=1)


STEPS: dict[str, Callable[[Load, Setup], Callable[[], Any]]] = {
    "assign": assign,
    "loss": loss,
    "select": select,
    "evaluate": evaluate,
    "convolution": convolution,
}
