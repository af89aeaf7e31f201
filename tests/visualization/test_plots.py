import re

import numpy as np
import torch
from matplotlib.colors import to_hex
from PIL import Image

from fcos_rpn.analysis.box_origins import BoxOrigins
from fcos_rpn.evaluation import PrecisionRecall
from fcos_rpn.evaluation.matching import IOU_THRESHOLDS
from fcos_rpn.visualization import (
    plot_precision_recall,
    plot_score_against_iou,
    save_figure,
)
from fcos_rpn.visualization.plots import FAIR, LINE_COLORS, OVERRATED
from tests.visualization.panels import texts


def curves(height):
    """The precision is `height` at IoU .50, a tenth of it less at each further threshold; the same at all recalls."""
    steps = np.arange(len(IOU_THRESHOLDS))[:, None]
    return PrecisionRecall(recall=np.linspace(0, 1, 101), precision=height * (1 - steps / 10) * np.ones((1, 101)))


def origins(class_scores, scores, ious):
    zeros = torch.zeros(len(ious), dtype=torch.int64)
    return BoxOrigins(torch.tensor(class_scores), torch.tensor(scores), torch.tensor(ious), zeros, zeros)


def test_precision_recall_has_a_curve_and_an_ap_for_every_model_and_threshold():
    figure = plot_precision_recall({"first": curves(1.0), "second": curves(0.5)})

    assert len(figure.axes) == 3
    for panel, title, heights in zip(
        figure.axes,
        ["IoU ≥ 0.50", "IoU ≥ 0.75", "IoU ≥ 0.90"],
        [(1.0, 0.5), (0.5, 0.25), (0.2, 0.1)],  # 0, 5 and 8 thresholds further
        strict=True,
    ):
        for line, color, height in zip(panel.lines, LINE_COLORS, heights, strict=False):
            np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 101))
            np.testing.assert_allclose(line.get_ydata(), height)
            assert line.get_color() == color
        shown = texts(panel)
        assert title in shown
        for name, height in zip(["first", "second"], heights, strict=True):
            assert shown[shown.index(name) + 1] == f"{100 * height:.1f}"


def test_any_thresholds_and_many_models():
    figure = plot_precision_recall({str(n): curves(0.5) for n in range(len(LINE_COLORS) + 1)}, iou_thresholds=[0.95])

    (panel,) = figure.axes
    assert len(panel.lines) == len(LINE_COLORS) + 1
    figure.canvas.draw()
    frame = figure.bbox
    extents = [text.get_window_extent() for text in panel.texts]
    assert all(frame.contains(*corner) for extent in extents for corner in extent.corners())


def test_dots_are_scores_against_iou_before_and_after_centerness():
    figure = plot_score_against_iou(origins([0.9, 0.2, 0.6], [0.3, 0.1, 0.6], [0.5, 0.4, 0.7]))

    before, after = figure.axes
    np.testing.assert_allclose(before.collections[0].get_offsets(), [[0.9, 0.5], [0.2, 0.4], [0.6, 0.7]], atol=1e-6)
    np.testing.assert_allclose(after.collections[0].get_offsets(), [[0.3, 0.5], [0.1, 0.4], [0.6, 0.7]], atol=1e-6)
    for panel in (before, after):  # where the class probability is above IoU
        colors = [to_hex(color) for color in panel.collections[0].get_facecolors()]
        assert colors == [OVERRATED, FAIR, FAIR]
    assert "33 % under the line" in texts(before)
    # The ranks of IoU are 2, 1, 3, those of the class probability 3, 1, 2, those of the score 2, 1, 3.
    assert texts(before)[:2] == ["Before centerness", "rank correlation 0.50"]
    assert texts(after)[:2] == ["With centerness", "rank correlation 1.00"]


def test_nothing_found():
    figure = plot_score_against_iou(origins([], [], []))
    assert [len(panel.collections[0].get_offsets()) for panel in figure.axes] == [0, 0]
    assert "no boxes" in texts(figure.axes[0])


def test_files_of_both_kinds_always_the_same(tmp_path):
    save_figure(plot_precision_recall({"first": curves(1.0)}), tmp_path / "new" / "figure")
    save_figure(plot_precision_recall({"first": curves(1.0)}), tmp_path / "again" / "figure")

    width, height = Image.open(tmp_path / "new" / "figure.png").size
    svg = (tmp_path / "new" / "figure.svg").read_text()
    shown_width, shown_height = (float(length) for length in re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2])
    assert (width, height) == (2 * round(shown_width), 2 * round(shown_height))
    for suffix in ("png", "svg"):
        one, other = (tmp_path / folder / f"figure.{suffix}" for folder in ("new", "again"))
        assert one.read_bytes() == other.read_bytes()
