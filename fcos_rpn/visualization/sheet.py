"""A sheet of panels that show the same image, and what is drawn onto them. Coordinates are pixels of that image."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .fonts import font_families, installed_fonts

Picture = NDArray[np.uint8]

INK, SOFT_INK = "#1c1c1e", "#6e6e73"

# Lengths are pixels of the picture: at 72 dots per inch, they are matplotlib's points.
DPI = 72
MAX_PANELS_WIDTH, MAX_PANELS_HEIGHT = 1800, 1080  # of all panels together
MAX_PANEL_WIDTH = 800
MIN_COLUMN_WIDTH = 460  # so that captions of tall pictures have room
GAP = 20
CAPTION_HEIGHT = 32
FONT_SIZE, SMALL_FONT_SIZE = 15, 12
LINE_WIDTH = 2
LABEL_PADDING = 2
LABEL_FONT: dict[str, Any] = {"fontsize": SMALL_FONT_SIZE, "fontweight": "bold"}
AS_PIXELS: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}


class Sheet:
    """Panels that show the same image, each under a caption, filled row by row."""

    def __init__(self, image: Picture, *, num_panels: int, columns: int | None = None) -> None:
        """Unless the number of columns is given, four panels and more stand in two rows."""
        self.columns = columns or (num_panels if num_panels <= 3 else math.ceil(num_panels / 2))
        rows = math.ceil(num_panels / self.columns)
        self.height, self.width = image.shape[:2]
        panel_width = min(MAX_PANEL_WIDTH, MAX_PANELS_WIDTH / self.columns)
        self.scale = min(panel_width / self.width, MAX_PANELS_HEIGHT / rows / self.height)
        self.panel_size = round(self.width * self.scale), round(self.height * self.scale)
        self.image = Image.fromarray(image).resize(self.panel_size, Image.Resampling.LANCZOS)
        # Gray and of little contrast, so that what is drawn over it stands out.
        self.muted_image = self.image.convert("L").point([55 + level * 2 // 5 for level in range(256)]).convert("RGB")
        self.row_height = CAPTION_HEIGHT + self.panel_size[1] + GAP // 2
        self.column_width = max(self.panel_size[0], min(MIN_COLUMN_WIDTH, MAX_PANELS_WIDTH // self.columns))
        self.size = GAP + self.columns * (self.column_width + GAP), GAP + rows * self.row_height
        # The hundredth keeps matplotlib from rounding down to a pixel less.
        self.figure = Figure(((self.size[0] + 0.01) / DPI, (self.size[1] + 0.01) / DPI), DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)

    def add_panel(self, title: str, detail: str, *, is_muted: bool = False) -> Axes:
        """The next panel, in pixels of the image."""
        row, column = divmod(len(self.figure.axes), self.columns)
        left = GAP + column * (self.column_width + GAP)
        bottom = self.size[1] - GAP // 2 - row * self.row_height - CAPTION_HEIGHT - self.panel_size[1]
        figure_size = np.tile(self.figure.bbox.size, 2)
        panel = self.figure.add_axes(np.divide((left, bottom, *self.panel_size), figure_size).tolist())
        panel.axis("off")
        panel.set(xlim=(0, self.width), ylim=(self.height, 0))
        panel.imshow(self.muted_image if is_muted else self.image, extent=(0, self.width, self.height, 0), **AS_PIXELS)
        caption: dict[str, Any] = {"textcoords": "offset points", "fontsize": FONT_SIZE, "va": "bottom"}
        head = panel.annotate(title, (0, 1), (0, 7), "axes fraction", **caption, color=INK, fontweight="bold")
        panel.annotate(detail, (1, 0), (8, 0), head, **caption, color=SOFT_INK)
        return panel

    def add_legend(self, panel: Axes, colors: Sequence[Any], labels: Sequence[str]) -> None:
        """On the line of the panel's caption, at the right end of its column."""
        swatches = [
            Patch(facecolor=color, edgecolor=SOFT_INK, linewidth=0.5, label=label)
            for color, label in zip(colors, labels, strict=True)
        ]
        end = self.column_width / self.panel_size[0]  # of the panel's width
        look: dict[str, Any] = {"fontsize": SMALL_FONT_SIZE, "labelcolor": SOFT_INK, "frameon": False}
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (end, 1), "borderpad": 0, "borderaxespad": 0.7}
        space: dict[str, Any] = {"handlelength": 0.8, "handletextpad": 0.5, "columnspacing": 1.2}
        panel.legend(handles=swatches, ncols=len(swatches), **look, **place, **space)

    def render(self) -> Picture:
        with installed_fonts(self.figure):
            self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


def draw_boxes(
    panel: Axes,
    boxes: Tensor,
    colors: Sequence[str],
    labels: Sequence[str] | None = None,
    *,
    alphas: Sequence[float] | None = None,
    styles: Sequence[str] | None = None,
) -> None:
    """(M, 4) boxes, each in its color and, where these are given, with its label, opacity and line style."""
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        alpha = alphas[index] if alphas else 1.0
        outline = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colors[index], linewidth=LINE_WIDTH)
        outline.set(alpha=alpha, linestyle=styles[index] if styles else "solid")
        outline.set_path_effects([withStroke(linewidth=LINE_WIDTH + 1.5, foreground="black", alpha=0.4 * alpha)])
        panel.add_patch(outline)

    taken: list[Bbox] = []
    for box, color, label in zip(boxes.tolist(), colors, labels or [], strict=bool(labels)):
        is_light = np.dot(to_rgb(color), (0.299, 0.587, 0.114)) > 0.55
        chip = {"facecolor": color, "edgecolor": "none", "pad": LABEL_PADDING}
        text = panel.text(
            0,
            0,
            label,
            **LABEL_FONT,
            fontfamily=font_families(label),
            color=INK if is_light else "white",
            bbox=chip,
            clip_on=True,
        )
        taken.append(_place_label(panel, text, box, taken))


def _place_label(panel: Axes, text: Text, box: Sequence[float], taken: Sequence[Bbox]) -> Bbox:
    """Move a label to a corner of its box: whole, over as few others as possible, and above rather than below.

    Returns:
        The extent of the label, in pixels of the picture.
    """
    x0, y0, x1, y1 = box
    sides = itertools.product([(y0, "bottom"), (y0, "top"), (y1, "top"), (y1, "bottom")], [(x0, "left"), (x1, "right")])
    corners = [{"x": x, "y": y, "ha": ha, "va": va} for (y, va), (x, ha) in sides]
    frame = panel.bbox.padded(LABEL_PADDING + 0.5)  # at the very edge, only the padding is cut off

    def extent_at(corner: dict[str, Any]) -> Bbox:
        text.set(**corner)
        return text.get_window_extent().padded(LABEL_PADDING)

    def cost(corner: dict[str, Any]) -> tuple[bool, int]:
        extent = extent_at(corner)
        is_whole = all(frame.contains(*point) for point in extent.corners())
        return not is_whole, extent.count_overlaps(taken)

    return extent_at(min(corners, key=cost))


def add_tag(panel: Axes, name: str) -> None:
    """In the upper left corner of a panel."""
    chip = {"facecolor": INK, "alpha": 0.8, "edgecolor": "none", "pad": 3}
    offset: dict[str, Any] = {"xytext": (7, -7), "textcoords": "offset points", "va": "top"}
    panel.annotate(name, (0, 1), xycoords="axes fraction", **offset, **LABEL_FONT, color="white", bbox=chip)
