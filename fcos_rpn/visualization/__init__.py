"""Pictures of what FCOS learns and finds, and plots of how good it is.

draw           detections, proposals, assignment by level and centerness over an image
plots          precision over recall, recall, score against IoU of a data set
dataset_plots  annotated images and histograms of their boxes
sheet          the panels that pictures are drawn on
"""

from .dataset_plots import draw_annotations, plot_boxes, tile
from .draw import (
    draw_assignment,
    draw_centerness,
    draw_detections,
    draw_proposals,
    draw_target_centerness,
)
from .plots import plot_precision_recall, plot_score_against_iou, save_figure

__all__ = [
    "draw_annotations",
    "draw_assignment",
    "draw_centerness",
    "draw_detections",
    "draw_proposals",
    "draw_target_centerness",
    "plot_boxes",
    "plot_precision_recall",
    "plot_score_against_iou",
    "save_figure",
    "tile",
]
