import contextlib
import io

import pytest
import torch
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from fcos_rpn.evaluation.detectron2_recall import detectron2_average_recall
from tests.evaluation.cases import coco_dataset, random_case

AREAS = {"": "all", "s": "small", "m": "medium", "l": "large"}


def by_detectron2(annotations, proposals, limits):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = annotations
        coco.createIndex()
    predictions = [
        {
            "image_id": image_id,
            "proposals": Instances(
                (200, 200),
                proposal_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
                objectness_logits=torch.tensor(scores, dtype=torch.float32),
            ),
        }
        for image_id, (boxes, scores) in proposals.items()
    ]
    return {
        f"AR{suffix}@{limit}": 100 * _evaluate_box_proposals(predictions, coco, area=area, limit=limit)["ar"].item()
        for limit in limits
        for suffix, area in AREAS.items()
    }


def as_tensors(proposals):
    return {
        image_id: (torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores, dtype=torch.float32))
        for image_id, (boxes, scores) in proposals.items()
    }


@pytest.mark.parametrize("seed", range(25))
def test_figures_equal_those_of_detectron2(seed):
    annotations, proposals = random_case(seed)
    actual = detectron2_average_recall(annotations, as_tensors(proposals), limits=(3, 6, 100))
    assert actual == pytest.approx(by_detectron2(annotations, proposals, (3, 6, 100)), nan_ok=True, abs=1e-9)


def test_the_pair_of_highest_iou_comes_first():
    # Of two objects side by side the best box overlaps the one by 1 and the other, as the second box does, by .6; by
    # score COCO gives the best box to the first object, and so does the overlap. The second is found at .50 to .60.
    annotations = coco_dataset([[(0, 0, 40, 40), (0, 0, 40, 24)]])
    proposals = {1: ([(0, 0, 40, 40), (0, 0, 40, 40)], [2.0, 1.0])}
    found = detectron2_average_recall(annotations, as_tensors(proposals), limits=(1, 2))
    assert found["AR@1"] == pytest.approx(50)
    assert found["AR@2"] == pytest.approx(100 * (10 + 3) / 20)
    assert found["ARs@2"] == pytest.approx(100 * 3 / 10)
    assert found["ARm@2"] == pytest.approx(100)


def test_a_chain_is_matched_link_by_link():
    # Each box overlaps its neighbour, less with each step, so that taking one pair frees the next.
    truths = [(0, 0, 100, 20 * step) for step in range(2, 9)]
    boxes = [(0, 0, 100, 20 * step + 8) for step in range(2, 9)]
    annotations, proposals = coco_dataset([truths]), {1: (boxes, [float(n) for n in range(7)])}
    actual = detectron2_average_recall(annotations, as_tensors(proposals), limits=(4, 7))
    assert actual == pytest.approx(by_detectron2(annotations, proposals, (4, 7)), nan_ok=True, abs=1e-9)
