import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from fcos_rpn.visualization import draw_annotations, plot_boxes, tile
from fcos_rpn.visualization.dataset_plots import MAX_CLASSES
from fcos_rpn.visualization.sheet import Sheet
from tests.visualization.panels import texts

RED, BLUE = (255, 77, 94), (47, 155, 255)  # the palette's first two


def bars(panel):
    return [patch for patch in panel.patches if isinstance(patch, Rectangle)]


def has_color(picture, color):
    return (np.abs(picture.astype(int) - color).max(axis=2) < 40).any()


def test_boxes_have_the_color_of_their_class():
    image = np.full((60, 80, 3), 128, dtype=np.uint8)
    boxes = torch.tensor([[5.0, 5, 40, 50], [50, 5, 70, 20]])
    for classes, has_red, has_blue in (([0, 1], True, True), ([1, 1], False, True), ([0, 10], True, False)):
        picture = draw_annotations(image, boxes, classes, [str(i) for i in range(11)], title="a.png")
        assert (has_color(picture, RED), has_color(picture, BLUE)) == (has_red, has_blue)


def test_crowded_images_have_no_labels(monkeypatch):
    monkeypatch.setattr("fcos_rpn.visualization.dataset_plots.MAX_LABELED_BOXES", 1)
    monkeypatch.setattr(Sheet, "render", lambda sheet: texts(sheet.figure.axes[0]))
    image, boxes = np.zeros((60, 60, 3), dtype=np.uint8), torch.tensor([[9.0, 9, 50, 50]] * 2)
    assert draw_annotations(image, boxes[:1], [0], ["cat"], title="a.png") == ["a.png", "1 box", "cat"]
    assert draw_annotations(image, boxes, [0, 0], ["cat"], title="a.png") == ["a.png", "2 boxes"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_is_drawn():
    names = ["$x$", r"\$", "$\\frac{$", "a$b", "\ud800", "\0\n", "名" * 99, ""]
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    boxes = torch.tensor([[5.0, 5, 30, 30]] * len(names))
    draw_annotations(image, boxes, range(len(names)), names, title="".join(names))
    figure = plot_boxes(np.ones((1, 2)), [1], dict.fromkeys(names, 1))
    figure.canvas.draw()
    assert {r"\$x\$  1", "名" * 27 + "…  1", "?  1", "??  1"} <= set(texts(figure.axes[3]))


def test_tiles_stand_in_rows_of_three():
    wide, tall = np.zeros((50, 100, 3), np.uint8), np.full((200, 100, 3), 9, np.uint8)
    assert tile([wide]).shape == (300, 600, 3)
    sheet = tile([wide, tall, wide, wide])
    assert sheet.shape == (1200 + 300, 1800, 3)
    assert sheet[0, 0].tolist() == [0, 0, 0]
    assert sheet[1199, 600].tolist() == [9, 9, 9]
    assert sheet[301, 0].tolist() == [255, 255, 255]
    assert sheet[1200, 0].tolist() == [0, 0, 0]


def test_histograms_count_every_box():
    sides = np.array([[4.0, 4], [4, 4], [16, 1], [64, 64], [1, 1]])  # sizes 4, 4, 4, 64, 1; ratios 1, 1, 16, 1, 1
    figure = plot_boxes(sides, [3, 2, 0, 0], {"cat": 4, "dog": 1, "parrot": 0})
    sizes, ratios, images, classes = figure.axes
    assert [(bar.get_x(), bar.get_height()) for bar in bars(sizes) if bar.get_height()] == [
        (pytest.approx(1), 1),
        (pytest.approx(4), 3),
        (pytest.approx(2**5.75), 1),  # the last bin holds its upper end
    ]
    assert [(bar.get_x(), bar.get_height()) for bar in bars(ratios) if bar.get_height()] == [
        (pytest.approx(1), 4),
        (pytest.approx(2**3.75), 1),
    ]
    assert [bar.get_height() for bar in bars(images)] == [2, 0, 1, 1]
    assert [bar.get_x() for bar in bars(images)] == [-0.5, 0.5, 1.5, 2.5]
    assert [bar.get_width() for bar in bars(classes)] == [4, 1, 0]
    assert {"cat  4", "dog  1", "parrot  0"} <= set(texts(classes))
    assert "5 boxes" in texts(sizes)
    assert "4 images" in texts(images)


def test_many_boxes_per_image_share_bins():
    images = plot_boxes(np.ones((2, 2)), [0, 1000], {}).axes[2]
    heights = [bar.get_height() for bar in bars(images)]
    assert (len(heights) <= 41, heights[0], heights[-1], sum(heights)) == (True, 1, 1, 2)


def test_the_most_frequent_classes_are_shown():
    classes = plot_boxes(np.ones((1, 2)), [1], {f"c{i}": i for i in range(MAX_CLASSES + 3)}).axes[3]
    assert bars(classes)[0].get_width() == MAX_CLASSES + 2
    assert len(bars(classes)) == MAX_CLASSES
    assert "and 3 rarer ones" in texts(classes)


def test_boxes_of_any_size_and_none():
    plot_boxes(np.zeros((0, 2)), [], {}).canvas.draw()
    plot_boxes(np.array([[1e-5, 1e12], [1e12, 1e-5], [1e12, 1e12], [1, 1]]), [4], {"cat": 4}).canvas.draw()
