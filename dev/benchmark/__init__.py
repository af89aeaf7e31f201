"""Measure time and memory of this package and its peers, on the same inputs with the same weights, in one process.

measuring   time and peak memory of functions that take turns
inputs      images, ground truth and boxes, random but always the same
peers       detectron2's FCOS and RetinaNet and torchvision's FCOS with our weights
report      table, JSON and plots

The other modules are one subject each; see `SUBJECTS`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dev.benchmark import assignment, evaluation, growth, inference, losses, proposals, training
from dev.benchmark.measuring import Comparison, Measurement, Setup, measure
from dev.benchmark.report import Report, growth_table, plot_growth, plot_times


class Subject(NamedTuple):
    """What can be measured."""

    about: str
    comparisons: Callable[[Setup], Iterator[Comparison]]


SUBJECTS = {
    "inference": Subject("images -> detections, and the convolutions alone", inference.comparisons),
    "train-step": Subject("time and memory of forward and backward", training.comparisons),
    "assign": Subject("ground truth -> targets", assignment.comparisons),
    "loss": Subject("forward and backward of the losses", losses.comparisons),
    "proposals": Subject("features -> proposals, against the anchor RPN", proposals.comparisons),
    "evaluate": Subject("AP and AR of a data set", evaluation.comparisons),
    "growth": Subject("each step against image size, batch, boxes and classes", growth.comparisons),
}

__all__ = [
    "SUBJECTS",
    "Comparison",
    "Measurement",
    "Report",
    "Setup",
    "Subject",
    "growth_table",
    "measure",
    "plot_growth",
    "plot_times",
]
