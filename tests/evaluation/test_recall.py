import copy
import json
import math

import pytest
import torch

from fcos_rpn.evaluation import average_recall, recall_by_iou
from tests.evaluation.cases import WORKED_ANNOTATIONS, WORKED_PROPOSALS, assert_equal_figures, coco_dataset, random_case

WORKED_AR = {
    "AR@1": 100 * (5 + 1) / 40,
    "ARs@1": 0.0,
    "ARm@1": 100 * 5 / 20,
    "ARl@1": 100 * 1 / 10,
    "AR@2": 100 * (9 + 5 + 1) / 40,
    "ARs@2": 0.0,
    "ARm@2": 100 * (9 + 5) / 20,
    "ARl@2": 100 * 1 / 10,
}


def test_average_recall_of_a_hand_worked_example(coco_library):
    assert_equal_figures(average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS, limits=(1, 2)), WORKED_AR)
    assert_equal_figures(average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS, limits=(2, 1)), WORKED_AR)


def test_recall_by_iou_of_one_box(coco_library):
    # IoU 10·7 / 10·10 = .7: found at the thresholds .50 to .70, by the second box only
    proposals = {1: ([(50, 50, 60, 60), (0, 0, 10, 7)], [0.9, 0.8])}
    found = recall_by_iou(coco_dataset([[(0, 0, 10, 10)]]), proposals, limits=(2, 1))
    assert set(found["1"].values()) == {0.0}
    assert [iou for iou, recall in found["2"].items() if recall == 100] == ["0.50", "0.55", "0.60", "0.65", "0.70"]
    assert [iou for iou, recall in found["2"].items() if recall == 0] == ["0.75", "0.80", "0.85", "0.90", "0.95"]


@pytest.mark.parametrize("seed", range(3))
def test_average_recall_is_the_mean_of_recall_by_iou(coco_library, seed):
    annotations, proposals = random_case(seed)
    average = average_recall(annotations, proposals, limits=(1, 10))
    for limit, by_iou in recall_by_iou(annotations, proposals, limits=(1, 10)).items():
        assert sum(by_iou.values()) / 10 == pytest.approx(average[f"AR@{limit}"], nan_ok=True)


def test_average_recall_leaves_its_arguments_alone(coco_library):
    annotations, proposals = copy.deepcopy(WORKED_ANNOTATIONS), copy.deepcopy(WORKED_PROPOSALS)
    average_recall(annotations, proposals)
    assert (annotations, proposals) == (WORKED_ANNOTATIONS, WORKED_PROPOSALS)


def test_average_recall_of_a_file_and_of_tensors(tmp_path):
    json_file = tmp_path / "annotations.json"
    json_file.write_text(json.dumps(WORKED_ANNOTATIONS))
    tensors = {i: (torch.tensor(boxes), torch.tensor(scores)) for i, (boxes, scores) in WORKED_PROPOSALS.items()}
    assert_equal_figures(average_recall(json_file, tensors, limits=(1, 2)), WORKED_AR)


def test_average_recall_reports_100_and_1000_boxes_by_default():
    # 999 boxes beside the object come first
    annotations = coco_dataset([[(0, 0, 10, 10)]])
    proposals = {1: ([(100, 100, 120, 120)] * 999 + [(0, 0, 10, 10)], list(range(1000, 0, -1)))}
    nan = math.nan
    expected = {"AR@100": 0, "ARs@100": 0, "ARm@100": nan, "ARl@100": nan}
    expected |= {"AR@1000": 100, "ARs@1000": 100, "ARm@1000": nan, "ARl@1000": nan}
    assert_equal_figures(average_recall(annotations, proposals), expected)


@pytest.mark.parametrize("seed", range(25))
def test_both_libraries_find_the_same_recall(seed):
    pytest.importorskip("hotcoco")
    annotations, proposals = random_case(seed)
    one, other = (
        average_recall(annotations, proposals, limits=(2, 5, 100), api=api) for api in ("hotcoco", "pycocotools")
    )
    assert_equal_figures(one, other)


def test_crowds_neither_count_nor_take_boxes(coco_library):
    # The box lies wholly in the crowd (id 1), yet the object, which it overlaps by .62, comes first.
    annotations = coco_dataset([[(0, 0, 10, 10), (0, 0, 60, 60)]], crowds={1})
    assert average_recall(annotations, {1: ([(0, 0, 10, 6.2)], [1.0])})["AR@100"] == pytest.approx(100 * 3 / 10)


def test_missing_iscrowd_and_area_are_filled_in(coco_library):
    annotations = copy.deepcopy(WORKED_ANNOTATIONS)
    for annotation in annotations["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    assert_equal_figures(average_recall(annotations, WORKED_PROPOSALS, limits=(1, 2)), WORKED_AR)


@pytest.mark.parametrize("proposals", [{}, {1: ([], [])}, {1: (torch.zeros(0, 4), torch.zeros(0))}])
def test_no_proposals_at_all(coco_library, proposals):
    expected = {"AR@100": 0.0, "ARs@100": 0.0, "ARm@100": 0.0, "ARl@100": 0.0}
    assert_equal_figures(average_recall(WORKED_ANNOTATIONS, proposals, limits=(100,)), expected)


@pytest.mark.parametrize("proposals", [{}, {1: ([(0, 0, 9, 9)], [1.0])}])
def test_no_ground_truth_at_all(coco_library, proposals):
    assert all(math.isnan(value) for value in average_recall(coco_dataset([[], []]), proposals).values())
