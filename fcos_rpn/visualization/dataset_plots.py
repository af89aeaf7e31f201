"""Pictures of a data set: annotated images on one sheet, and histograms of their boxes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .draw import PALETTE
from .plots import LINE_COLORS, add_title, new_figure
from .sheet import INK, SMALL_FONT_SIZE, Picture, Sheet, draw_boxes

TILE_WIDTH, COLUMNS = 600, 3  # of the sheet of annotated images; pixels
MAX_LABELED_BOXES = 40  # of an image: more labels would hide it
MAX_CLASSES = 12  # in the plot
MAX_NAME = 28  # characters
BINS_PER_OCTAVE = 4
MAX_BINS = 40


def draw_annotations(
    image: Picture, boxes: Tensor, classes: Sequence[int], class_names: Sequence[str], *, title: str
) -> Picture:
    """Draw annotated boxes over an image.

    Args:
        image: (H, W, 3) uint8 RGB, as Detectron2's `read_image(file, "RGB")` returns it.
        boxes: (M, 4) x0, y0, x1, y1 in its pixels.
        classes: M in [0, C).
        class_names: C names.
        title: the image's name.
    """
    sheet = Sheet(image, num_panels=1)
    panel = sheet.add_panel(_plain(title), "1 box" if len(boxes) == 1 else f"{len(boxes)} boxes")
    colors = [PALETTE[label % len(PALETTE)] for label in classes]
    labels = [_plain(class_names[label]) for label in classes] if len(boxes) <= MAX_LABELED_BOXES else None
    draw_boxes(panel, boxes, colors, labels)
    return sheet.render()


def tile(pictures: Sequence[Picture]) -> Picture:
    """Scale pictures to one width and put them on one sheet, row by row."""
    tiles = [
        Image.fromarray(picture).resize(
            (TILE_WIDTH, max(1, round(TILE_WIDTH * picture.shape[0] / picture.shape[1]))), Image.Resampling.LANCZOS
        )
        for picture in pictures
    ]
    rows = [tiles[first : first + COLUMNS] for first in range(0, len(tiles), COLUMNS)]
    heights = [max(image.height for image in row) for row in rows]
    sheet = Image.new("RGB", (TILE_WIDTH * min(COLUMNS, len(tiles)), sum(heights)), "white")
    for index, row in enumerate(rows):
        for column, image in enumerate(row):
            sheet.paste(image, (column * TILE_WIDTH, sum(heights[:index])))
    return np.asarray(sheet)


def plot_boxes(
    sides: NDArray[np.float64], boxes_per_image: Sequence[int], boxes_per_class: Mapping[str, int]
) -> Figure:
    """Plot histograms of a data set's boxes: size, aspect ratio, number per image and per class.

    Args:
        sides: (M, 2) width and height above 0, in pixels.
        boxes_per_image: of every image.
        boxes_per_class: by name; the most frequent ones are shown.
    """
    figure, (sizes, ratios, images, classes) = new_figure(num_panels=4)
    _add_octaves(sizes, np.sqrt(sides.prod(axis=1)))
    add_title(sizes, "Box size", f"{len(sides):,} boxes")
    sizes.set_xlabel("√(width · height), pixels")
    sizes.set_ylabel("Boxes")
    _add_octaves(ratios, sides[:, 0] / sides[:, 1])
    add_title(ratios, "Aspect ratio")
    ratios.set_xlabel("width / height")
    _add_whole_numbers(images, boxes_per_image)
    add_title(images, "Boxes per image", f"{len(boxes_per_image):,} images")
    images.set_xlabel("Boxes")
    _add_classes(classes, boxes_per_class)
    return figure


def _add_octaves(panel: Axes, values: NDArray[np.float64]) -> None:
    """Add a histogram over a logarithmic axis."""
    low, high = (values.min(), values.max()) if len(values) else (1, 2)
    first = math.floor(np.log2(low))
    last = max(first + 1, math.ceil(np.log2(high)))
    edges = np.exp2(np.arange(BINS_PER_OCTAVE * first, BINS_PER_OCTAVE * last + 1) / BINS_PER_OCTAVE)
    counts, _ = np.histogram(values, edges)
    _start_counting(panel, counts.max(), (edges[0], edges[-1]))
    panel.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=LINE_COLORS[0])
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(LogLocator(2, numticks=8))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _add_whole_numbers(panel: Axes, values: Sequence[int]) -> None:
    width = math.ceil((1 + max(values, default=0)) / MAX_BINS)
    edges = np.arange(0, max(values, default=0) + width + 1, width) - 0.5
    counts, _ = np.histogram(values, edges)
    _start_counting(panel, counts.max(), (edges[0], edges[-1]))
    panel.bar(edges[:-1], counts, width=width, align="edge", color=LINE_COLORS[0])
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _add_classes(panel: Axes, boxes_per_class: Mapping[str, int]) -> None:
    """Add a bar for each class, with its name over it."""
    shown = sorted(boxes_per_class.items(), key=lambda item: -item[1])[:MAX_CLASSES]
    hidden = len(boxes_per_class) - len(shown)
    add_title(panel, "Boxes per class", f"and {hidden} rarer ones" if hidden else "")
    panel.set(xlabel="Boxes", ylim=(max(len(shown), 1) - 0.5, -0.5), yticks=[])
    most = max((number for _, number in shown), default=0)
    panel.set_xlim(0, 1.05 * max(most, 1))
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panel.barh(range(len(shown)), [number for _, number in shown], color=LINE_COLORS[0], alpha=0.45)
    text: dict[str, Any] = {"va": "center", "color": INK, "fontsize": SMALL_FONT_SIZE, "clip_on": True}
    for row, (name, number) in enumerate(shown):
        panel.text(0.02 * max(most, 1), row, f"{_plain(name)}  {number:,}", **text)


def _start_counting(panel: Axes, most: int, limits: tuple[float, float]) -> None:
    panel.set(xlim=limits, ylim=(0, 1.05 * max(most, 1)))
    panel.xaxis.set_major_locator(AutoLocator())
    panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _plain(name: str) -> str:
    """As matplotlib shows it: short, and no formula."""
    name = "".join(character if character.isprintable() else "?" for character in name)
    return (name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…").replace("$", r"\$")
