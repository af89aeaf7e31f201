"""Outlines of the digits, so that mask and keypoint heads can be tried without a download.

Coordinates are pixels of the image, as in `digits_scene`.
"""

import numpy as np
from numpy.typing import NDArray

from .scene import Item, is_ink

KEYPOINTS = ("top", "right", "bottom", "left")
"""The middle of the ink in the box's first row, last column, last row and first column."""

_VISIBLE = 2


def polygon_of(digit: Item) -> list[list[float]]:
    """COCO's `segmentation`: the convex hull of the ink, in one polygon x, y, x, y, ... that spans the box."""
    from scipy.spatial import ConvexHull  # a dependency of scikit-learn, without which there are no digits

    rows, columns = np.nonzero(is_ink(digit.ink.coverage))
    corners = [np.stack([columns + right, rows + below], axis=1) for right in (0, 1) for below in (0, 1)]
    points = np.concatenate(corners)
    hull = points[ConvexHull(points).vertices] + digit.box[:2]
    return [hull.flatten().astype(float).tolist()]


def keypoints_of(digit: Item) -> list[int]:
    """COCO's `keypoints`: x, y of the pixel and visibility of each of `KEYPOINTS`."""
    ink = is_ink(digit.ink.coverage)
    x, y, width, height = digit.box
    top, bottom = x + _middle(ink[0]), x + _middle(ink[-1])
    left, right = y + _middle(ink[:, 0]), y + _middle(ink[:, -1])
    points = [(top, y), (x + width - 1, right), (bottom, y + height - 1), (x, left)]
    return [number for point in points for number in (*point, _VISIBLE)]


def _middle(is_covered: NDArray[np.bool_]) -> int:
    (covered,) = np.nonzero(is_covered)
    return int(covered[len(covered) // 2])
