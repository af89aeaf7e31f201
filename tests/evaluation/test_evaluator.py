import copy
import itertools
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pycocotools.cocoeval
import pycocotools.mask
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from fcos_rpn.errors import UserError
from fcos_rpn.evaluation import FCOSEvaluator, FCOSWithProposals
from tests.evaluation.cases import assert_equal_figures, coco_dataset, random_detections
from tests.tiny import tiny_batch, tiny_config

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden"


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


def evaluate(dataset_name, outputs, evaluator_type=FCOSEvaluator, **kwargs):
    """`outputs`: image id -> what a model returns for that image."""
    evaluator = evaluator_type(dataset_name, distributed=False, **kwargs)
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate()


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


@pytest.mark.parametrize("seed", range(3))
def test_figures_and_files_are_the_same_with_hotcoco_and_pycocotools(register_dataset, tmp_path, seed):
    annotations, found = random_detections(seed)
    for annotation in annotations["annotations"]:  # Detectron2's loader refuses ignored objects
        del annotation["ignore"], annotation["keypoints"], annotation["num_keypoints"]
    name = register_dataset(annotations)
    to_class = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    outputs = {}
    for image in annotations["images"]:
        rows = [row for row in found if row["image_id"] == image["id"]]
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (row["bbox"] for row in rows)]
        scores = [row["score"] for row in rows]
        detections = instances(boxes, scores, [to_class[row["category_id"]] for row in rows])
        masks = [pycocotools.mask.decode(row["segmentation"]) for row in rows]
        detections.pred_masks = torch.tensor(np.array(masks).reshape(-1, 200, 200))
        outputs[image["id"]] = {"instances": detections, "proposals": rpn_proposals(boxes, scores)}

    results = {}
    for api, evaluator_type in [("hotcoco", FCOSEvaluator), ("pycocotools", FCOSEvaluator), ("theirs", COCOEvaluator)]:
        kwargs = {"api": api} if evaluator_type is FCOSEvaluator else {}
        copies = copy.deepcopy(outputs)
        results[api] = evaluate(name, copies, evaluator_type, output_dir=str(tmp_path / api), **kwargs)
    assert results["hotcoco"].keys() == results["pycocotools"].keys()
    assert {"AP", "AP-2", "AP-8"} <= results["hotcoco"]["segm"].keys()
    for task, figures in results["pycocotools"].items():
        assert_equal_figures(results["hotcoco"][task], figures)
    for ours, theirs in [("bbox", "bbox"), ("segm", "segm"), ("box_proposals_detectron2", "box_proposals")]:
        assert_equal_figures(results["hotcoco"][ours], results["theirs"][theirs])
    for api in ("hotcoco", "pycocotools"):
        assert {path.name for path in (tmp_path / api).iterdir()} == {
            path.name for path in (tmp_path / "theirs").iterdir()
        }
        for file, read in [("coco_instances_results.json", json.loads), ("box_proposals.pkl", pickle.loads)]:
            actual, expected = (read((tmp_path / writer / file).read_bytes()) for writer in (api, "theirs"))
            np.testing.assert_equal(actual, expected)


def test_the_library_is_the_chosen_one(register_dataset, monkeypatch):
    boxes = [(0, 0, 20, 20)]
    name = register_dataset(coco_dataset([boxes]))
    output = {1: {"instances": instances(boxes, [1.0]), "proposals": rpn_proposals(boxes, [1.0])}}

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(pycocotools.cocoeval.COCOeval, "accumulate", fail)
    assert evaluate(name, output)["bbox"]["AP"] == pytest.approx(100)
    with pytest.raises(ZeroDivisionError):
        evaluate(name, output, api="pycocotools")
    with pytest.raises(UserError, match=r"no COCO API 'coco'"):
        evaluate(name, output, api="coco")


def test_a_class_that_the_data_set_lacks_is_an_error(register_dataset):
    name = register_dataset(coco_dataset([[(0, 0, 20, 20)]]))
    output = {1: {"instances": instances([(0, 0, 20, 20)], [1.0], classes=[2])}}
    with pytest.raises(UserError, match=r"predicts class 2, but the data set has 2 classes"):
        evaluate(name, output)


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


def test_class_agnostic_boxes_are_scored_as_the_detections_are():
    # Of one image and of one box a location: what the detector finds of a class is also its class-agnostic box.
    cfg = tiny_config()
    cfg.MODEL.FCOS.update({"NUM_CLASSES": 1, "SCORE_FUSION": "product", "SCORE_THRESH_TEST": 0.0})
    model = build_model(cfg).eval()
    (shown,) = FCOSWithProposals(model, num_boxes=cfg.TEST.DETECTIONS_PER_IMAGE)(tiny_batch([(64, 64)], [0]))
    assert len(shown["instances"]) > 5
    torch.testing.assert_close(shown["proposals"].objectness_logits.sigmoid(), shown["instances"].scores)
    torch.testing.assert_close(shown["proposals"].proposal_boxes.tensor, shown["instances"].pred_boxes.tensor)
