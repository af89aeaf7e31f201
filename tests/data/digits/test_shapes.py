import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from fcos_rpn.data.digits.scene import HEIGHT, WIDTH, Ink, Item, is_ink, make_scene
from fcos_rpn.data.digits.shapes import KEYPOINTS, keypoints_of, polygon_of


def digit(rows: list[str], x: int, y: int) -> Item:
    """Ink where the rows have an x."""
    covered = np.array([[255 * (cell == "x") for cell in row] for row in rows], dtype=np.uint8)
    return Item(Ink(Image.fromarray(covered), 8), (x, y, len(rows[0]), len(rows)), (0, 0, 0))


SEVEN = digit(["xxxx", "...x", "..x.", "..x."], x=10, y=20)


def test_the_hull_of_a_seven():
    (polygon,) = polygon_of(SEVEN)
    # Corners of pixels: the first row is 4 wide, the last row ends at x 2..3, the right side comes in after row 1.
    expected = {(10, 20), (14, 20), (14, 22), (13, 24), (12, 24), (10, 21)}
    assert {*zip(polygon[::2], polygon[1::2], strict=True)} == expected


def test_the_keypoints_of_a_seven():
    # In the box: the top row has columns 0-3, of which 2 is the middle one; the last column rows 0-1; and so on.
    points = dict(zip(KEYPOINTS, zip(*(keypoints_of(SEVEN)[i::3] for i in range(3)), strict=True), strict=True))
    assert points == {"top": (12, 20, 2), "right": (13, 21, 2), "bottom": (12, 23, 2), "left": (10, 20, 2)}


@pytest.mark.parametrize("index", [0, 1])
def test_hulls_hold_all_ink_and_span_the_box(index):
    for drawn in make_scene(0, "train", index).digits:
        x, y, width, height = drawn.box
        (polygon,) = polygon_of(drawn)
        assert (min(polygon[::2]), min(polygon[1::2])) == (x, y)
        assert (max(polygon[::2]), max(polygon[1::2])) == (x + width, y + height)
        filled = coco_mask.decode(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH))[..., 0][
            y : y + height, x : x + width
        ]
        ink = is_ink(drawn.ink.coverage)
        # pycocotools leaves out some pixels at the border of a polygon.
        assert (filled.astype(bool) & ink).sum() >= 0.9 * ink.sum()
        for column, row, _ in zip(*(keypoints_of(drawn)[i::3] for i in range(3)), strict=True):
            assert ink[row - y, column - x]
