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

from fcos_rpn.errors import UserError
from fcos_rpn.evaluation.average_precision import FIGURES, average_precision, lvis_average_precision
from tests.evaluation.cases import NUM_KEYPOINTS, assert_equal_figures, random_detections

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden"
TASKS = ["bbox", "segm", "keypoints"]
SIGMAS = [0.03, 0.05, 0.1, 0.02, 0.2]
assert len(SIGMAS) == NUM_KEYPOINTS


def by_pycocotools(dataset, detections, task, *, sigmas=(), limit=100):
    """As Detectron2 does it: masks without boxes, so that their area is that of the mask."""
    if task == "segm":
        detections = [{key: value for key, value in found.items() if key != "bbox"} for found in detections]
    gt = COCO()
    gt.dataset = copy.deepcopy(dataset)
    gt.createIndex()
    coco_eval = COCOevalMaxDets(gt, gt.loadRes(copy.deepcopy(detections)), task)
    if task == "keypoints":
        coco_eval.params.kpt_oks_sigmas = np.array(sigmas or coco_eval.params.kpt_oks_sigmas)
    else:
        coco_eval.params.maxDets = [1, 10, limit]
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    figures = dict(zip(FIGURES[task], coco_eval.stats, strict=False))
    for index, category_id in enumerate(coco_eval.params.catIds):
        precision = coco_eval.eval["precision"][:, :, index, 0, -1]
        figures[f"AP-{category_id}"] = precision[precision > -1].mean() if (precision > -1).any() else -1
    return {name: 100 * value if value >= 0 else math.nan for name, value in figures.items()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(8))
def test_figures_equal_those_of_pycocotools(coco_library, task, seed):
    dataset, detections = random_detections(seed)
    before = copy.deepcopy((dataset, detections))
    sigmas = SIGMAS if task == "keypoints" else ()
    actual = average_precision(dataset, detections, task, kpt_oks_sigmas=sigmas)
    assert_equal_figures(actual, by_pycocotools(dataset, detections, task, sigmas=sigmas))
    assert (dataset, detections) == before
    assert math.isnan(actual["AP-8"])  # has no ground truth
    assert actual["AP-2"] > 0


def test_another_limit(coco_library):
    dataset, detections = random_detections(3)
    # Five more boxes of each, after it: what counts are 11 boxes of an image and a class
    crowded = [{**found, "score": found["score"] - 0.01 * step} for found in detections for step in range(6)]
    limited = average_precision(dataset, crowded, "bbox", limit=11)
    assert_equal_figures(limited, by_pycocotools(dataset, crowded, "bbox", limit=11))
    assert limited["AP"] < average_precision(dataset, crowded, "bbox")["AP"]


@pytest.mark.skipif(not GOLDEN.exists(), reason="COCO's demo detections are not here")
def test_the_published_figures_of_cocos_demo(coco_library):
    dataset = json.loads((GOLDEN / "instances_val2014_100.json").read_text())
    detections = json.loads((GOLDEN / "instances_val2014_fakebbox100_results.json").read_text())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        figures = average_precision(dataset, detections, "bbox")
    published = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501]
    assert [figures[name] for name in FIGURES["bbox"]] == pytest.approx([100 * value for value in published], abs=0.05)
    assert [float(line[-5:]) for line in printed.getvalue().splitlines() if "AR" in line] == [
        *(0.387, 0.594, 0.595, 0.640, 0.566, 0.564)
    ]


def test_cocos_own_sigmas_are_the_default(coco_library):
    dataset, detections = random_detections(1)
    for entry in (*dataset["annotations"], *detections):
        entry["keypoints"] = entry["keypoints"] * 4
        del entry["keypoints"][17 * 3 :]
    assert_equal_figures(
        average_precision(dataset, detections, "keypoints"), by_pycocotools(dataset, detections, "keypoints")
    )


def test_numbers_of_keypoints_must_agree():
    dataset, detections = random_detections(1)
    with pytest.raises(UserError, match=r"5 keypoints are annotated in image id \d, but there are 17 sigmas"):
        average_precision(dataset, detections, "keypoints")
    detections[3]["keypoints"] = [1, 2, 2]
    with pytest.raises(UserError, match=r"1 keypoints are predicted in image id"):
        average_precision(dataset, detections, "keypoints", kpt_oks_sigmas=SIGMAS)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_found_has_ap_0(coco_library, task):
    dataset, _ = random_detections(1)
    figures = average_precision(dataset, [], task, kpt_oks_sigmas=SIGMAS)
    assert (figures["AP"], figures["AP-2"]) == (0, 0)
    assert math.isnan(figures["AP-8"])


def test_annotation_0_can_be_found(coco_library):
    dataset, _ = random_detections(0)
    box = {"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10]}
    dataset["annotations"] = [{**box, "id": 0, "area": 100, "iscrowd": 0}]
    assert average_precision(dataset, [{**box, "score": 0.5}], "bbox")["AP"] == pytest.approx(100)
    # By itself pycocotools takes it for "unmatched".
    assert by_pycocotools(dataset, [{**box, "score": 0.5}], "bbox")["AP"] == 0


def test_classes_have_any_number(coco_library):
    box = {"image_id": 1, "category_id": -7, "bbox": [0, 0, 10, 10]}
    dataset = {
        "images": [{"id": 1, "height": 99, "width": 99}],
        "categories": [{"id": 2**60, "name": "b"}, {"id": -7, "name": "a"}],
        "annotations": [{**box, "id": 1, "area": 100, "iscrowd": 0}],
    }
    figures = average_precision(dataset, [{**box, "score": 0.5}], "bbox")
    assert figures["AP-a"] == pytest.approx(100)
    assert math.isnan(figures["AP-b"])


def test_no_warnings(recwarn):
    dataset, detections = random_detections(1)
    average_precision(dataset, detections, "bbox", limit=300)
    average_precision(dataset, detections, "keypoints", kpt_oks_sigmas=SIGMAS)
    assert not recwarn.list


LVIS = {
    "images": [
        {"id": "one", "height": 99, "width": 99, "neg_category_ids": [2], "not_exhaustive_category_ids": []},
        {"id": "two", "height": 99, "width": 99, "neg_category_ids": [], "not_exhaustive_category_ids": [3]},
    ],
    "categories": [{"id": n, "name": frequency, "frequency": frequency} for n, frequency in enumerate("rcf", 1)],
    "annotations": [
        {"id": n, "image_id": image_id, "category_id": n, "bbox": [0, 0, 50, 50], "area": 2500}
        for n, image_id in enumerate(("one", "two", "two"), 1)
    ],
}


def found(image_id, category_id, x, score):
    return {"image_id": image_id, "category_id": category_id, "bbox": [x, 0, 50, 50], "score": score}


def test_lvis_counts_a_class_only_where_it_was_looked_for():
    pytest.importorskip("hotcoco")
    hits = [found("one", 1, 0, 0.5), found("two", 2, 0, 0.5), found("two", 3, 0, 0.5)]
    misses = [
        found("two", 1, 0, 0.9),  # nobody looked for class 1 in this image: does not count
        found("one", 2, 0, 0.9),  # class 2 is known not to be there: precision 1/2 at every recall
        found("two", 3, 49, 0.9),  # not all of class 3 are annotated there: does not count
    ]
    figures = lvis_average_precision(LVIS, hits + misses, "bbox")
    nan = math.nan
    mean = 100 * (1 + 0.5 + 1) / 3
    expected = {"AP": mean, "AP50": mean, "AP75": mean, "APs": nan, "APm": mean, "APl": nan}
    assert_equal_figures(figures, expected | {"APr": 100, "APc": 50, "APf": 100})
    # COCO's protocol takes all three for mistakes.
    assert average_precision({**LVIS}, hits + misses, "bbox")["AP"] == pytest.approx(50)
    assert lvis_average_precision(LVIS, [], "bbox")["AP"] == 0


def test_lvis_limits_the_detections_of_an_image():
    hotcoco = pytest.importorskip("hotcoco")
    if tuple(map(int, hotcoco.__version__.split(".")[:2])) < (1, 3):
        pytest.skip("this hotcoco has no such limit")
    crowded = [found("one", 2, 49, 0.9), found("one", 1, 0, 0.8)]
    assert lvis_average_precision(LVIS, crowded, "bbox", limit=2)["APr"] == pytest.approx(100)
    assert lvis_average_precision(LVIS, crowded, "bbox", limit=1)["APr"] == 0
