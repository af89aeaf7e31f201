"""How fast and how large: this package against its peers, on the same inputs with the same weights, in one process.

measuring   time and peak memory of functions that take turns
inputs      images, ground truth and boxes, random but always the same
peers       detectron2's FCOS and RetinaNet and torchvision's FCOS with our weights
inference   images -> detections, and the convolutions alone as the floor
training    forward and backward of a whole model
assignment  ground truth -> targets
losses      predictions and targets -> gradients
proposals   features -> proposals, against the anchor RPN
evaluation  proposals and detections -> AP and AR
growth      how each step grows with image size, batch, boxes and classes
report      table, JSON and plots
"""

from collections.abc import Callable, Iterator, Mapping

from dev.benchmark import assignment, evaluation, growth, inference, losses, proposals, training
from dev.benchmark.measuring import Comparison, Measurement, Setup, measure
from dev.benchmark.report import Report, growth_table, plot_growth, plot_times

SUBJECTS: Mapping[str, Callable[[Setup], Iterator[Comparison]]] = {
    "inference": inference.comparisons,
    "train-step": training.comparisons,
    "assign": assignment.comparisons,
    "loss": losses.comparisons,
    "proposals": proposals.comparisons,
    "evaluate": evaluation.comparisons,
    "growth": growth.comparisons,
}
"""What can be measured."""

__all__ = [
    "SUBJECTS",
    "Comparison",
    "Measurement",
    "Report",
    "Setup",
    "growth_table",
    "measure",
    "plot_growth",
    "plot_times",
]
