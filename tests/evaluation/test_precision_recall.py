import math

import numpy as np
import pytest

from fcos_rpn.evaluation import precision_recall
from tests.evaluation.cases import WORKED_ANNOTATIONS, WORKED_PROPOSALS, assert_equal_figures, coco_dataset, random_case


def test_precision_of_a_hand_worked_example(coco_library):
    curves = precision_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS)
    # Best first, the IoUs are .72, .92, 0 and .52, of 4 objects. At .50: hit, hit, miss, hit, so that the precision is
    # 1 up to a recall of 2/4 and 3/4 up to 3/4. From .55: hit, hit and nothing more. From .75 to .90: the second alone.
    at_50 = [1.0] * 51 + [0.75] * 25 + [0.0] * 25
    at_70 = [1.0] * 51 + [0.0] * 50
    at_75 = [0.5] * 26 + [0.0] * 75
    np.testing.assert_allclose(curves.recall, np.linspace(0, 1, 101))
    for iou_threshold, expected in [(0.5, at_50), (0.55, at_70), (0.7, at_70), (0.75, at_75), (0.9, at_75)]:
        np.testing.assert_allclose(curves.at(iou_threshold), expected)
    assert not curves.at(0.95).any()
    sums = {"AP": (69.75 + 4 * 51 + 4 * 13) / 10, "AP50": 69.75, "AP75": 13, "AP90": 13}
    assert_equal_figures(curves.summary(), {name: 100 * value / 101 for name, value in sums.items()})


def test_only_the_best_boxes_of_every_image_count(coco_library):
    # One box each: hits of IoU .72 and .52
    curves = precision_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS, limit=1)
    np.testing.assert_allclose(curves.at(0.5), [1.0] * 51 + [0.0] * 50)
    np.testing.assert_allclose(curves.at(0.7), [1.0] * 26 + [0.0] * 75)


@pytest.mark.parametrize("seed", range(25))
def test_both_libraries_find_the_same_precision(seed):
    pytest.importorskip("hotcoco")
    annotations, boxes = random_case(seed)
    one, other = (precision_recall(annotations, boxes, limit=6, api=api) for api in ("hotcoco", "pycocotools"))
    np.testing.assert_allclose(one.precision, other.precision, atol=1e-12)


def test_nothing_found_and_nothing_to_find(coco_library):
    assert precision_recall(WORKED_ANNOTATIONS, {}).summary() == {"AP": 0, "AP50": 0, "AP75": 0, "AP90": 0}
    summary = precision_recall(coco_dataset([[]]), {1: ([(0, 0, 9, 9)], [1.0])}).summary()
    assert all(math.isnan(value) for value in summary.values())
