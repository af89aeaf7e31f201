import contextlib
import copy
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fcos_rpn.errors import UserError
from fcos_rpn.evaluation.average_precision import evaluate_detections
from tests.evaluation.cases import NUM_KEYPOINTS, random_detections

pytest.importorskip("hotcoco")
GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden"
TASKS = ["bbox", "segm", "keypoints"]
SIGMAS = [0.03, 0.05, 0.1, 0.02, 0.2]
assert len(SIGMAS) == NUM_KEYPOINTS


def by_pycocotools(dataset, detections, task, *, sigmas=None, image_ids=None, limit=None):
    """As Detectron2 does it: masks without boxes, so that their area is that of the mask."""
    if task == "segm":
        detections = [{key: value for key, value in found.items() if key != "bbox"} for found in detections]
    gt = COCO()
    gt.dataset = copy.deepcopy(dataset)
    gt.createIndex()
    coco_eval = (COCOevalMaxDets if limit else COCOeval)(gt, gt.loadRes(copy.deepcopy(detections)), task)
    if sigmas:
        coco_eval.params.kpt_oks_sigmas = np.array(sigmas)
    if image_ids:
        coco_eval.params.imgIds = image_ids
    if limit:
        coco_eval.params.maxDets = [1, 10, limit]
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval


def assert_equal_tables(actual, expected):
    np.testing.assert_allclose(actual.stats, expected.stats, atol=1e-12)
    for table in ("precision", "recall", "scores"):
        assert actual.eval[table].shape == expected.eval[table].shape
        np.testing.assert_allclose(actual.eval[table], expected.eval[table], atol=1e-12, err_msg=table)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(8))
def test_figures_and_tables_equal_those_of_pycocotools(task, seed):
    dataset, detections = random_detections(seed)
    before = copy.deepcopy((dataset, detections))
    sigmas = SIGMAS if task == "keypoints" else ()
    actual = evaluate_detections(dataset, detections, task, kpt_oks_sigmas=sigmas)
    assert_equal_tables(actual, by_pycocotools(dataset, detections, task, sigmas=sigmas))
    assert (dataset, detections) == before
    assert len(actual.stats) == (10 if task == "keypoints" else 12)
    precision = actual.eval["precision"]
    assert precision.shape[2] == 4  # classes in order of their ids, of which 8 has no ground truth
    assert (precision[:, :, 3] == -1).all()
    assert (precision[:, :, :3, 0] > 0).any()


def test_some_images_and_another_limit():
    dataset, detections = random_detections(3)
    some = evaluate_detections(dataset, detections, "bbox", image_ids=[9, 1, 5])
    assert_equal_tables(some, by_pycocotools(dataset, detections, "bbox", image_ids=[9, 1, 5]))
    # Five more boxes of each, after it: what counts are 11 boxes of an image and a class
    crowded = [{**found, "score": found["score"] - 0.01 * step} for found in detections for step in range(6)]
    limited = evaluate_detections(dataset, crowded, "bbox", limit=11)
    assert_equal_tables(limited, by_pycocotools(dataset, crowded, "bbox", limit=11))
    assert limited.stats[8] < evaluate_detections(dataset, crowded, "bbox").stats[8]


@pytest.mark.skipif(not GOLDEN.exists(), reason="COCO's demo detections are not here")
def test_figures_and_tables_of_cocos_demo():
    dataset = json.loads((GOLDEN / "instances_val2014_100.json").read_text())
    detections = json.loads((GOLDEN / "instances_val2014_fakebbox100_results.json").read_text())
    actual = evaluate_detections(dataset, detections, "bbox")
    assert_equal_tables(actual, by_pycocotools(dataset, detections, "bbox"))
    assert actual.stats[0] == pytest.approx(0.505, abs=5e-4)


def test_cocos_own_sigmas_are_the_default():
    dataset, detections = random_detections(1)
    for entry in (*dataset["annotations"], *detections):
        entry["keypoints"] = entry["keypoints"] * 4
        del entry["keypoints"][17 * 3 :]
    assert_equal_tables(
        evaluate_detections(dataset, detections, "keypoints"), by_pycocotools(dataset, detections, "keypoints")
    )


def test_numbers_of_keypoints_must_agree():
    dataset, detections = random_detections(1)
    with pytest.raises(UserError, match=r"5 keypoints are annotated in image id \d, but there are 17 sigmas"):
        evaluate_detections(dataset, detections, "keypoints")
    detections[3]["keypoints"] = [1, 2, 2]
    with pytest.raises(UserError, match=r"1 keypoints are predicted in image id"):
        evaluate_detections(dataset, detections, "keypoints", kpt_oks_sigmas=SIGMAS)


def test_detections_of_unlisted_images_are_an_error():
    dataset, detections = random_detections(1)
    with pytest.raises(UserError, match="image id 44"):
        evaluate_detections(dataset, [{**detections[0], "image_id": 44}], "bbox")


def test_nothing_found_has_ap_0():
    dataset, _ = random_detections(1)
    assert evaluate_detections(dataset, [], "bbox").stats[0] == 0


def test_annotation_0_can_be_found_unlike_with_pycocotools():
    dataset, detections = random_detections(0)
    box = {"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10]}
    dataset["annotations"] = [{**box, "id": 0, "area": 100, "iscrowd": 0}]
    detections = [{**box, "score": 0.5}]
    assert math.isclose(evaluate_detections(dataset, detections, "bbox").stats[0], 1)
    assert by_pycocotools(dataset, detections, "bbox").stats[0] == 0


def test_the_summary_is_printed_without_warnings(recwarn):
    dataset, detections = random_detections(1)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        evaluate_detections(dataset, detections, "bbox", limit=300)
        evaluate_detections(dataset, detections, "keypoints", kpt_oks_sigmas=SIGMAS)
    assert printed.getvalue().count("IoU=0.50:0.95") == 10 + 6
    assert not recwarn.list
