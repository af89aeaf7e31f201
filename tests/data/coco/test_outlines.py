import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pycocotools import mask as mask_util

from fcos_rpn.data.coco.outlines import holds_pixels, keypoints_problem, segmentation_problem

TRIANGLE = [0, 0, 4.5, 0, 4, 3]


def assert_problem(problem: str | None, expected: str | None) -> None:
    assert (problem is None) == (expected is None)
    assert problem is None or (problem.startswith(str(expected)) and "; correct or delete" in problem)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        (None, None),
        ([], None),
        ([TRIANGLE], None),
        ([TRIANGLE, [1, 1, 2, 2]], None),
        ([[]], None),
        (7, "segmentation 7 is neither"),
        ("0011", "segmentation '0011' is neither"),
        ([TRIANGLE, 7], "segmentation[1] 7 is not x and y"),
        (TRIANGLE, "segmentation[0] 0 is not x and y"),  # a list too few
        ([[TRIANGLE]], "segmentation[0] [[0, 0, 4.5, 0, 4, 3]] is not x and y"),
        ([[*TRIANGLE, 1]], "segmentation[0] [0, 0, 4.5, 0, 4, 3, ...] is not x and y"),
        ([[0, 0, 4, 0, math.nan, 3]], "segmentation[0] [0, 0, 4, 0, nan, 3] is not x and y"),
        ([[0, 0, 4, 0, "4", 3]], "segmentation[0] [0, 0, 4, 0, '4', 3] is not x and y"),
        ({}, "segmentation: size None is not height and width"),
        ({"size": [2, 2.0], "counts": [4]}, "segmentation: size [2, 2.0] is not height and width"),
        ({"size": [0, 2], "counts": [0]}, "segmentation: size [0, 2] is not height and width"),
        ({"size": [3, 2], "counts": [6]}, "segmentation: size [3, 2] is not the height and width of the image, [2, 3]"),
        ({"size": [2, 3]}, "segmentation: counts None are no run lengths that add up to 2 * 3"),
        ({"size": [2, 3], "counts": [1, 4]}, "segmentation: counts [1, 4] are no run lengths"),
        ({"size": [2, 3], "counts": [1, 7, -2]}, "segmentation: counts [1, 7, -2] are no run lengths"),
        ({"size": [2, 3], "counts": [1, 5.0]}, "segmentation: counts [1, 5.0] are no run lengths"),
        ({"size": [2, 3], "counts": ""}, "segmentation: counts '' are no run lengths"),
        ({"size": [2, 3], "counts": "1é"}, "segmentation: counts '1é' are no run lengths"),
        ({"size": [2, 3], "counts": "P"}, "segmentation: counts 'P' are no run lengths"),  # a digit 0 that goes on
        ({"size": [2, 3], "counts": "6P"}, "segmentation: counts '6P' are no run lengths"),
        # V is a digit 6 that goes on: the same 6, but in more digits than 64 bits have
        ({"size": [2, 3], "counts": "V" + "P" * 20 + "0"}, "segmentation: counts 'VPPP"),
    ],
)
def test_segmentations(segmentation, expected):
    assert_problem(segmentation_problem(segmentation, (2, 3)), expected)


@given(mask=st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70)), elements=st.integers(0, 1)))
def test_what_pycocotools_compresses_passes_whole_and_not_cut_off(mask):
    encoding = mask_util.encode(np.asfortranarray(mask))
    counts = encoding["counts"].decode()
    assert segmentation_problem({"size": [*mask.shape], "counts": counts}, mask.shape) is None
    # A last run that is cut off is missing in the sum; one that is zero pixels long is never written.
    assert segmentation_problem({"size": [*mask.shape], "counts": counts[:-1]}, mask.shape) is not None


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([TRIANGLE], True),
        ([[1, 1, 1.1, 1, 1.1, 1.1]], True),  # a part of a pixel
        ([[-9, -9, 99, -9, 99, 99, -9, 99]], True),  # all around the image
        ([[-1e9, 5, 1e9, 5, 0, 6]], True),
        ([[0, 0, 10, 10, 10, 0, 0, 10]], True),  # two loops, whose areas cancel out
        ([[0, 0, 9, 9, 4, 4], [1, 1, 5, 1, 5, 5]], True),
        ([[80, 0, 90, 0, 90, 9]], False),
        ([[5, -9, 9, -9, 9, 0]], False),
        ([[-10, 5, 5, -10, -10, -10]], False),  # beside the corner, and both extents reach in
        ([[0, 0, 9, 9, 4, 4]], False),
        ([[0.1, 0.1, 0.2, 0.2, 0.3, 0.3]], False),
        ([[5, 5, 5, 9, 5, 7]], False),
        ([[5, 5, 5, 5, 5, 5], [80, 0, 90, 0, 90, 9], [1, 1, 2, 2]], False),
        ({"size": [60, 80], "counts": [4800]}, False),
        ({"size": [60, 80], "counts": [4800, 0]}, False),
        ({"size": [60, 80], "counts": [0, 1, 4799]}, True),
        ({"size": [60, 80], "counts": "l1Xb4l1"}, True),
        ({"size": [60, 80], "counts": mask_util.encode(np.zeros((60, 80), np.uint8, "F"))["counts"].decode()}, False),
    ],
)
def test_outlines_hold_pixels(segmentation, expected):
    assert holds_pixels(segmentation, (60, 80)) is expected


@pytest.mark.parametrize(
    ("keypoints", "expected"),
    [
        *((right, None) for right in (None, [], [1, 2, 0], [1, 2.5, 2.0])),
        (5, "keypoints 5 is not x, y and visibility"),
        ([[1, 2, 2]], "keypoints [[1, 2, 2]] is not x, y and visibility"),
        ([1, 2], "keypoints [1, 2] is not x, y and visibility"),
        ([1, None, 2], "keypoints [1, None, 2] is not x, y and visibility"),
        ([math.inf, 2, 2], "keypoints [inf, 2, 2] is not x, y and visibility"),
        ([1, 2, 0.9], "keypoints: visibility 0.9 is not 0, 1 or 2"),
        ([1, 2, 2, 3, 4, 2], "keypoints: 2 of them, but the category names 1"),
    ],
)
def test_keypoints(keypoints, expected):
    assert_problem(keypoints_problem(keypoints, ["nose"]), expected)
