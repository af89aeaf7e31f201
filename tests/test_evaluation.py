import copy
import itertools
import json
import logging
import math
import random
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from fcos_rpn import evaluation
from fcos_rpn.errors import UserError
from fcos_rpn.evaluation import FCOSEvaluator, average_recall, results_table, write_results
from tests.naive_recall import naive_average_recall

GOLDEN = Path(__file__).parents[2] / "shared" / "data" / "golden"


@pytest.fixture(params=["hotcoco", "pycocotools"])
def coco_library(request, monkeypatch):
    evaluation._coco_api.cache_clear()
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "hotcoco", None)  # importing it fails
    yield request.param
    evaluation._coco_api.cache_clear()


@pytest.fixture
def register_dataset(tmp_path):
    """Registers annotations under a name for the length of the test."""
    names = []

    def register(annotations):
        names.append(f"test_evaluation_{len(names)}")
        json_file = tmp_path / f"{names[-1]}.json"
        json_file.write_text(json.dumps(annotations))
        register_coco_instances(names[-1], {}, str(json_file), str(tmp_path))
        DatasetCatalog.get(names[-1])  # reads the class names
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def coco_dataset(boxes_per_image, *, crowds=()):
    """Image ids 1, 2, ... with these x1, y1, x2, y2 boxes of two classes in turn; ids in `crowds` are crowd regions.

    Annotation ids start at 0, which pycocotools alone would count as never matched.
    """
    annotations = []
    for image_id, boxes in enumerate(boxes_per_image, start=1):
        for x1, y1, x2, y2 in boxes:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": 7 + len(annotations) % 2,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(len(annotations) in crowds),
                }
            )
    return {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": 200, "width": 200}
            for image_id in range(1, len(boxes_per_image) + 1)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": annotations,
    }


def random_case(seed):
    """Small integer boxes on a coarse grid, so that equal scores, equal overlaps and overlaps at a threshold abound."""
    rng = random.Random(seed)

    def random_boxes(count, sizes):
        corners = [(rng.randrange(0, 60, 10), rng.randrange(0, 60, 10)) for _ in range(count)]
        return [(x, y, x + rng.choice(sizes), y + rng.choice(sizes)) for x, y in corners]

    truths = [random_boxes(rng.choice([0, 0, 1, 4, 9]), [10, 20, 32, 40, 96, 120]) for _ in range(6)]
    crowds = {annotation_id for annotation_id in range(60) if rng.random() < 0.2}
    annotations = coco_dataset(truths, crowds=crowds)
    for annotation in annotations["annotations"]:
        annotation["area"] = rng.choice([annotation["area"], 0.5 * annotation["area"], 1024, 9216])  # as masks have
    proposals = {}
    for image_id, boxes in enumerate(truths, start=1):
        shifted = [tuple(side + rng.choice([0, 0, 1, 2, 5]) for side in box) for box in boxes for _ in range(2)]
        candidates = shifted + random_boxes(rng.choice([0, 5]), [10, 20, 33, 90])
        rng.shuffle(candidates)
        if rng.random() < 0.8:
            proposals[image_id] = (candidates, [rng.choice([0.25, 0.5, 0.75, 1.0]) for _ in candidates])
    return annotations, proposals


def instances(boxes, scores, classes=None):
    return Instances(
        (200, 200),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores, dtype=torch.float32),
        pred_classes=torch.tensor(classes or [0] * len(scores), dtype=torch.int64),
    )


def rpn_proposals(boxes, scores):
    return Instances(
        (200, 200),
        proposal_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        objectness_logits=torch.tensor(scores, dtype=torch.float32),
    )


def evaluate(dataset_name, outputs, **kwargs):
    """`outputs`: image id -> what a model returns for that image."""
    evaluator = FCOSEvaluator(dataset_name, distributed=False, **kwargs)
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate()


def assert_equal_figures(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


# Four ground-truth boxes in three images. The small one lies in an image without boxes; of the medium ones the first is
# hit with IoU 0.92 by the second-best box only, the other with 0.72 by the best box of its image; the large one with
# 0.52. They pass 9, 5 and 1 of the thresholds .50 .55 ... .95.
WORKED_ANNOTATIONS = coco_dataset(
    [[(0, 0, 50, 50), (0, 100, 50, 150)], [(0, 0, 10, 10)], [(0, 0, 100, 100)]],
)
WORKED_PROPOSALS = {
    1: ([(0, 0, 50, 46), (0, 100, 50, 136), (150, 150, 160, 160)], [0.5, 0.9, 0.1]),
    3: ([(0, 0, 100, 52)], [-3.0]),
}
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
def test_average_recall_equals_the_naive_loops(coco_library, seed):
    annotations, proposals = random_case(seed)
    expected = naive_average_recall(annotations, proposals, limits=(2, 5, 100))
    assert_equal_figures(average_recall(annotations, proposals, limits=(2, 5, 100)), expected)


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


def test_pycocotools_is_announced_as_slow(coco_library, caplog):
    with caplog.at_level(logging.WARNING):
        average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS)
        average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS)
    warnings = [record for record in caplog.records if "fcos_rpn[fast-eval]" in record.getMessage()]
    assert len(warnings) == {"hotcoco": 0, "pycocotools": 1}[coco_library]


def test_user_errors_name_file_and_image(tmp_path):
    with pytest.raises(UserError, match=r"image id 9 \(2 such ids\)"):
        average_recall(WORKED_ANNOTATIONS, {9: ([(0, 0, 1, 1)], [1.0]), 11: ([], [])})
    with pytest.raises(UserError, match=r"missing\.json"):
        average_recall(tmp_path / "missing.json", {})
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"half\.json"):
        average_recall(tmp_path / "half.json", {})
    (tmp_path / "images.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"images\.json: no 'images' or no 'annotations'"):
        average_recall(tmp_path / "images.json", {})


def test_images_without_proposals_count_unlike_in_detectron2(register_dataset):
    # Perfect boxes in one image, none in the other, as many objects in each.
    boxes = [(0, 0, 20, 20), (50, 50, 90, 90)]
    name = register_dataset(coco_dataset([boxes, boxes]))
    results = evaluate(name, {1: {"proposals": rpn_proposals(boxes, [1, 2])}, 2: {"proposals": rpn_proposals([], [])}})
    assert list(results) == ["box_proposals", "box_proposals_detectron2"]
    assert results["box_proposals"].keys() == results["box_proposals_detectron2"].keys()
    assert results["box_proposals"]["AR@1000"] == pytest.approx(50)
    assert results["box_proposals_detectron2"]["AR@1000"] == pytest.approx(100)


def test_detections_and_proposals_are_scored_in_one_run(register_dataset, tmp_path):
    boxes = [(0, 0, 20, 20), (50, 50, 90, 90)]  # one of either class in both images
    name = register_dataset(coco_dataset([boxes, boxes]))
    outputs = {
        # both classes mistaken: no AP, but class-agnostic recall
        1: {"instances": instances(boxes, [0.9, 0.8], classes=[1, 0]), "proposals": rpn_proposals(boxes[:1], [3])},
        2: {"instances": instances([], []), "proposals": rpn_proposals([], [])},
    }
    results = evaluate(name, outputs, output_dir=str(tmp_path))
    assert list(results) == ["box_proposals", "box_proposals_detectron2", "bbox", "box_detections"]
    assert results["box_proposals"]["AR@100"] == pytest.approx(25)
    assert results["bbox"]["AP"] == 0
    nan = math.nan
    expected = {"AR@100": 50.0, "ARs@100": 50.0, "ARm@100": 50.0, "ARl@100": nan}
    assert_equal_figures(results["box_detections"], expected)
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 2


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
def test_a_model_that_detects_nothing_has_ap_0(register_dataset, task):
    # Only class "cat", only a medium box.
    annotations = coco_dataset([[(0, 0, 50, 50)], []])
    keypoints = {"keypoints": [10, 10, 2] * 17, "num_keypoints": 17}
    annotations["annotations"][0] |= {"segmentation": [[0, 0, 50, 0, 50, 50, 0, 50]], **keypoints}
    outputs = {image_id: {"instances": instances([], [])} for image_id in (1, 2)}
    results = evaluate(register_dataset(annotations), outputs, tasks=(task,))
    nan = math.nan
    expected = {"AP": 0, "AP50": 0, "AP75": 0, "APs": nan, "APm": 0, "APl": nan, "AP-cat": 0, "AP-dog": nan}
    if task == "keypoints":
        del expected["APs"]
    assert_equal_figures(results[task], expected)
    assert results["box_detections"]["AR@100"] == 0


def test_annotations_without_ground_truth_give_no_figures(register_dataset, tmp_path):
    annotations = coco_dataset([[]])
    name = register_dataset(annotations)
    del annotations["annotations"]
    Path(MetadataCatalog.get(name).json_file).write_text(json.dumps(annotations))
    output = {"instances": instances([(0, 0, 9, 9)], [1.0]), "proposals": rpn_proposals([(0, 0, 9, 9)], [1.0])}
    assert evaluate(name, {1: output}, output_dir=str(tmp_path)) == {}
    assert (tmp_path / "coco_instances_results.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_only_rank_0_returns_results(register_dataset, monkeypatch, rank):
    boxes = [(0, 0, 20, 20)]
    evaluator = FCOSEvaluator(register_dataset(coco_dataset([boxes, boxes])), distributed=True)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"proposals": rpn_proposals(boxes, [1.0])}])
    other_rank = [{"image_id": 2, "proposals": rpn_proposals(boxes, [1.0])}]
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "gather", lambda mine, dst: [mine, other_rank] if rank == dst else [])
    monkeypatch.setattr(comm, "is_main_process", lambda: rank == 0)
    results = evaluator.evaluate()
    assert results == {} if rank else results["box_proposals"]["AR@100"] == pytest.approx(100)


class DoubleBoxes(Boxes):
    """Some overlaps in COCO's demo lie so near a threshold that the single precision of Boxes moves AR by .001."""

    def __init__(self, boxes):
        self.tensor = torch.tensor(boxes, dtype=torch.float64)

    def to(self, device):
        return self


@pytest.mark.skipif(not GOLDEN.exists(), reason="COCO's demo detections are not here")
def test_the_published_figures_of_cocos_demo(register_dataset, monkeypatch):
    annotations = json.loads((GOLDEN / "instances_val2014_100.json").read_text())
    detections = json.loads((GOLDEN / "instances_val2014_fakebbox100_results.json").read_text())
    stats = []
    derive = FCOSEvaluator._derive_coco_results

    def record_stats(self, coco_eval, *args, **kwargs):
        stats.extend(coco_eval.stats)
        return derive(self, coco_eval, *args, **kwargs)

    monkeypatch.setattr(FCOSEvaluator, "_derive_coco_results", record_stats)
    name = register_dataset(annotations)
    to_class = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    outputs = {image["id"]: {"instances": instances([], [])} for image in annotations["images"]}
    for image_id, of_image in itertools.groupby(
        sorted(detections, key=lambda d: d["image_id"]), lambda d: d["image_id"]
    ):
        rows = list(of_image)
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (row["bbox"] for row in rows)]
        classes = [to_class[row["category_id"]] for row in rows]
        outputs[image_id]["instances"] = instances(boxes, [row["score"] for row in rows], classes)
        outputs[image_id]["instances"].pred_boxes = DoubleBoxes(boxes)
    results = evaluate(name, outputs)

    published = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    assert stats == pytest.approx(published, abs=5e-4)
    ap = {name: value for name, value in results["bbox"].items() if not name.startswith("AP-")}
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert ap == pytest.approx(dict(zip(names, [100 * figure for figure in published], strict=False)), abs=0.05)


def test_results_table():
    results = {
        "bbox": {"AP": 12.345, "APs": math.nan, "AP-cat": 1.0},
        "box_proposals": {"AR@100": 50.0},
    }
    header, _, *rows = results_table(results).splitlines()
    assert header.split() == ["bbox", "box_proposals"]
    assert [row.split() for row in rows] == [["AP", "12.35"], ["APs", "-"], ["AR@100", "50.00"]]
    assert all(len(row) == len(header) for row in rows[2:])  # the last column's figure stands under its name


def test_results_json_is_strict_and_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "output" / "results.json"
    write_results(path, {"bbox": {"AP": 12.5, "APs": math.nan}, "digits": {"bbox": {"AP": 1}}})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "bbox": {"AP": 12.5, "APs": None},
        "digits": {"bbox": {"AP": 1.0}},
    }
    before = path.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(evaluation.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(path, {"bbox": {"AP": 99.0}})
    assert path.read_text() == before
