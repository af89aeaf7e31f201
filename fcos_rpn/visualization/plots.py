"""Plots of what models find in a data set: precision over recall, IoU over score.

Every function returns a matplotlib figure; `save_figure` writes it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from ..analysis.box_origins import BoxOrigins, rank_correlation
from ..evaluation.precision_recall import REPORTED_THRESHOLDS, PrecisionRecall
from .fonts import installed_fonts
from .sheet import DPI, FONT_SIZE, INK, SMALL_FONT_SIZE, SOFT_INK

LINE_COLORS = ["#2f9bff", "#ff4d5e", "#2bb56c", "#b06bff", "#ff8a1f", "#19b5bd", "#e0559f", "#c98f63"]
"""The colors of boxes in pictures, the lighter ones darkened for a white ground."""
OVERRATED, FAIR = LINE_COLORS[1], LINE_COLORS[0]
GRID = "#e5e5ea"

# Lengths are pixels, as in `sheet`; a file has twice as many.
PANEL, LARGE_PANEL = 300, 360  # width and height
LEFT, RIGHT, TOP, BOTTOM, GAP = 68, 24, 48, 52, 48
LEGEND_LINE = 22
FILE_DPI = 2 * DPI


def plot_precision_recall(
    curves: Mapping[str, PrecisionRecall], *, iou_thresholds: Sequence[float] = REPORTED_THRESHOLDS
) -> Figure:
    """Plot a panel for each IoU threshold with the curves of all models, and their AP below.

    Args:
        curves: by the model's name.
        iou_thresholds: some of `IOU_THRESHOLDS`.
    """
    figure, panels, colors = _figure_of_curves(len(curves), num_panels=len(iou_thresholds))
    for panel, iou_threshold in zip(panels, iou_thresholds, strict=True):
        add_title(panel, f"IoU ≥ {iou_threshold:.2f}")
        for curve, color in zip(curves.values(), colors, strict=True):
            precision = curve.at(iou_threshold)
            end = 1 + np.count_nonzero(precision)  # once down at zero, the line would only cover the axis
            panel.plot(curve.recall[:end], precision[:end], color=color, linewidth=2.5, solid_capstyle="round")
        panel.set_xlabel("Recall, %")
        _add_figures_below(
            panel, "AP", {name: curve.average_precision(iou_threshold) for name, curve in curves.items()}, colors
        )
    panels[0].set_ylabel("Precision, %")
    return figure


def plot_score_against_iou(origins: BoxOrigins) -> Figure:
    """Plot a dot for each box: its IoU with the ground truth over its class probability, and over its score.

    Boxes whose class probability is above their IoU have another color in both panels, which shows what centerness does
    to them (paper, figure 7, whose score is the product).
    """
    figure, panels = new_figure(num_panels=2, panel_size=LARGE_PANEL)
    is_overrated = (origins.class_scores > origins.ious).cpu()  # (K,)
    before, after = ("Before centerness", "Class probability, %"), ("With centerness", "Score, %")
    for panel, (title, label), scores in zip(
        panels, (before, after), (origins.class_scores, origins.scores), strict=True
    ):
        add_title(panel, title, f"rank correlation {rank_correlation(scores, origins.ious):.2f}")
        _add_dots(panel, scores.cpu(), origins.ious.cpu(), is_overrated)
        panel.plot([0, 1], [0, 1], color=SOFT_INK, linewidth=1.5, linestyle=(0, (4, 3)))
        panel.set(xlabel=label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))  # no dot is cut in half
    panels[0].set_ylabel("IoU with the ground truth, %")
    note: dict[str, Any] = {"xycoords": "axes fraction", "fontsize": SMALL_FONT_SIZE, "fontweight": "bold"}
    share = f"{100 * is_overrated.double().mean():.0f} % under the line" if len(is_overrated) else "no boxes"
    panels[0].annotate(share, (0.97, 0.06), ha="right", color=OVERRATED, **note)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `path`.png and `path`.svg; the same figure gives the same files."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": path.name}), installed_fonts(figure):
        figure.savefig(f"{path}.png", dpi=FILE_DPI)
        figure.savefig(f"{path}.svg", dpi=FILE_DPI, metadata={"Date": None})


def new_figure(*, num_panels: int, panel_size: int = PANEL, extra_height: int = 0) -> tuple[Figure, list[Axes]]:
    """Make square panels over [0, 1] x [0, 1] in a row, above free space of `extra_height` pixels."""
    width = LEFT + num_panels * (panel_size + GAP) - GAP + RIGHT
    height = TOP + panel_size + BOTTOM + extra_height
    figure = Figure((width / DPI, height / DPI), DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = []
    for index in range(num_panels):
        left, bottom = LEFT + index * (panel_size + GAP), BOTTOM + extra_height
        panel = figure.add_axes((left / width, bottom / height, panel_size / width, panel_size / height))
        panel.set(xlim=(0, 1), ylim=(0, 1), axisbelow=True, xticks=[0, 0.25, 0.5, 0.75, 1])
        panel.set_yticks([0, 0.25, 0.5, 0.75, 1])
        panel.grid(color=GRID, linewidth=1)
        panel.tick_params(length=0, pad=6, labelsize=SMALL_FONT_SIZE, labelcolor=SOFT_INK)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
            axis.label.set(fontsize=SMALL_FONT_SIZE + 1, color=INK)
        panel.spines[:].set(color=GRID, linewidth=1)
        panels.append(panel)
    return figure, panels


def _figure_of_curves(num_curves: int, *, num_panels: int) -> tuple[Figure, list[Axes], list[str]]:
    """Make panels above free space for `_add_figures_below`, and choose a color for each curve."""
    figure, panels = new_figure(num_panels=num_panels, extra_height=LEGEND_LINE * (2 + num_curves))
    return figure, panels, [LINE_COLORS[index % len(LINE_COLORS)] for index in range(num_curves)]


def add_title(panel: Axes, title: str, detail: str = "") -> None:
    """Add a title that looks like a caption of `sheet`."""
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": FONT_SIZE, "va": "bottom"}
    head = panel.annotate(title, (0, 1), (0, 10), "axes fraction", **text, color=INK, fontweight="bold")
    panel.annotate(detail, (1, 0), (8, 0), head, **text, color=SOFT_INK)


def _add_figures_below(panel: Axes, heading: str, figures: Mapping[str, float], colors: Sequence[str]) -> None:
    """Add a line for each name below the panel: its color, the name and its figure."""
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL_FONT_SIZE, "va": "center"}
    first = -BOTTOM - LEGEND_LINE
    panel.annotate(heading, (1, 0), (0, first), "axes fraction", **text, ha="right", color=SOFT_INK)
    for row, ((name, figure), color) in enumerate(zip(figures.items(), colors, strict=True), start=1):
        y = first - row * LEGEND_LINE
        panel.annotate("●", (0, 0), (0, y), "axes fraction", **text, color=color)
        panel.annotate(name, (0, 0), (18, y), "axes fraction", **text, color=INK)
        panel.annotate(f"{figure:.1f}", (1, 0), (0, y), "axes fraction", **text, ha="right", color=INK, weight="bold")


def _add_dots(panel: Axes, scores: Tensor, ious: Tensor, is_overrated: Tensor) -> None:
    """Add dots, fainter the more there are. They are pixels in an SVG, too, which thousands of shapes would slow."""
    alpha = min(0.8, max(0.08, 400 / (1 + len(scores))))
    colors = [OVERRATED if is_over else FAIR for is_over in is_overrated.tolist()]
    panel.scatter(scores.tolist(), ious.tolist(), 14, colors, alpha=alpha, linewidths=0, rasterized=True)
