import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pycocotools import mask as mask_util

from fcos_rpn.data.coco.outlines import are_numbers, keypoints_problem, lacks_polygon, segmentation_problem

TRIANGLE = [0, 0, 4.5, 0, 4, 3]


@pytest.mark.parametrize("numbers", [[], [0, -1.5, 999_999_999_999], (2,)])
def test_numbers(numbers):
    assert are_numbers(numbers)


@pytest.mark.parametrize("value", [True, None, "1", [1], math.nan, math.inf, -math.inf, 10**12, -(10**400)])
def test_no_numbers(value):
    assert not are_numbers([1, value, 2])


@pytest.mark.parametrize("segmentation", [None, [], [TRIANGLE], [TRIANGLE, [1, 1, 2, 2]], [[]]])
def test_polygons_pass(segmentation):
    assert segmentation_problem(segmentation, (60, 80)) is None


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
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
def test_malformed_segmentations(segmentation, expected):
    problem = segmentation_problem(segmentation, (2, 3))
    assert problem is not None
    assert problem.startswith(expected)
    assert "; correct or delete" in problem


def test_any_size_passes_where_that_of_the_image_is_unknown():
    assert segmentation_problem({"size": [3, 2], "counts": [6]}, None) is None


@given(mask=st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70)), elements=st.integers(0, 1)))
def test_what_pycocotools_compresses_passes_whole_and_not_cut_off(mask):
    encoding = mask_util.encode(np.asfortranarray(mask))
    counts = encoding["counts"].decode()
    assert segmentation_problem({"size": [*mask.shape], "counts": counts}, mask.shape) is None
    # A last run that is cut off is missing in the sum; one that is zero pixels long is never written.
    assert segmentation_problem({"size": [*mask.shape], "counts": counts[:-1]}, mask.shape) is not None


@given(segmentation=st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=5),
       lambda inner: st.lists(inner) | st.fixed_dictionaries({"size": inner, "counts": inner})))  # fmt: skip
def test_any_segmentation_and_keypoints_give_a_sentence_or_none(segmentation):
    for problem in (segmentation_problem(segmentation, (2, 3)), keypoints_problem(segmentation, ["nose"])):
        assert problem is None or json.dumps(problem)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        (None, False),
        ([], False),
        ({"size": [2, 3], "counts": [6]}, False),
        ([TRIANGLE], False),
        ([[1, 1, 2, 2], TRIANGLE], False),
        ([[1, 1, 2, 2], [1, 1]], True),
        ([[]], True),
    ],
)
def test_annotations_that_detectron2_leaves_out(segmentation, expected):
    assert lacks_polygon(segmentation) == expected


@pytest.mark.parametrize(
    ("keypoints", "names"),
    [
        (None, ["nose"]),
        ([], ["nose"]),
        ([1, 2, 0], ["nose"]),
        ([1, 2.5, 2.0, 3, 4, 1], []),
        ([0] * 6, ["nose", "tail"]),
    ],
)
def test_keypoints_pass(keypoints, names):
    assert keypoints_problem(keypoints, names) is None


@pytest.mark.parametrize(
    ("keypoints", "expected"),
    [
        (5, "keypoints 5 is not x, y and visibility"),
        ([[1, 2, 2]], "keypoints [[1, 2, 2]] is not x, y and visibility"),
        ([1, 2], "keypoints [1, 2] is not x, y and visibility"),
        ([1, None, 2], "keypoints [1, None, 2] is not x, y and visibility"),
        ([math.inf, 2, 2], "keypoints [inf, 2, 2] is not x, y and visibility"),
        ([1, 2, 0.9], "keypoints: visibility 0.9 is not 0, 1 or 2"),
        ([1, 2, 2, 3, 4, 2], "keypoints: 2 of them, but the category names 1"),
    ],
)
def test_malformed_keypoints(keypoints, expected):
    problem = keypoints_problem(keypoints, ["nose"])
    assert problem is not None
    assert problem.startswith(expected)
    assert problem.endswith("; correct or delete this key")
