"""What is drawn on a panel."""

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text


def texts(panel: Axes) -> list[str]:
    return [text.get_text() for text in panel.findobj(Text) if text.get_text()]


def outlines(panel: Axes) -> dict[tuple[float, ...], str]:
    """Corners of boxes -> color, in the order of drawing."""
    return {
        tuple(map(float, patch.get_bbox().extents)): to_hex(patch.get_edgecolor())
        for patch in panel.patches
        if isinstance(patch, Rectangle)
    }
