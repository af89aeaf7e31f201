import copy
import json
import logging
import math
import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import load_proposals_into_dataset
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm

from fcos_rpn.checkpoint.safe_loading import load_pickle
from fcos_rpn.data import register_coco_folder
from fcos_rpn.errors import UserError
from fcos_rpn.evaluation import FCOSEvaluator, FCOSWithProposals, build_evaluator
from fcos_rpn.evaluation import evaluator as evaluator_module
from tests.data.small_coco import small_coco, write_coco
from tests.evaluation.cases import assert_equal_figures, coco_dataset, random_detections
from tests.tiny import tiny_batch, tiny_config


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
    outputs = {1: {"proposals": rpn_proposals(boxes, [1, 2])}, 2: {"proposals": rpn_proposals([], [])}}
    assert list(evaluate(name, outputs)) == ["box_proposals"]
    results = evaluate(name, outputs, detectron2_ar=True)
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
    results = evaluate(name, outputs, output_dir=tmp_path)
    assert list(results) == ["box_proposals", "bbox", "box_detections"]
    assert results["box_proposals"]["AR@100"] == pytest.approx(25)
    assert results["bbox"]["AP"] == 0
    nan = math.nan
    expected = {"AR@100": 50.0, "ARs@100": 50.0, "ARm@100": 50.0, "ARl@100": nan}
    assert_equal_figures(results["box_detections"], expected)


@pytest.mark.parametrize("seed", range(3))
def test_figures_and_files_are_those_of_detectron2(register_dataset, coco_library, tmp_path, seed):
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

    ours = evaluate(name, outputs, output_dir=str(tmp_path / "ours"), detectron2_ar=True)
    theirs = evaluate(name, outputs, COCOEvaluator, output_dir=str(tmp_path / "theirs"), use_fast_impl=False)
    assert {"AP", "AP-2", "AP-8"} <= ours["segm"].keys()
    for task, figures in theirs.items():
        assert_equal_figures(ours["box_proposals_detectron2" if task == "box_proposals" else task], figures)
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        path.name for path in (tmp_path / "theirs").iterdir()
    }
    for file, read in [("coco_instances_results.json", json.loads), ("box_proposals.pkl", pickle.loads)]:
        actual, expected = (read((tmp_path / writer / file).read_bytes()) for writer in ("ours", "theirs"))
        np.testing.assert_equal(actual, expected)


def test_a_class_that_the_data_set_lacks_is_an_error(register_dataset):
    name = register_dataset(coco_dataset([[(0, 0, 20, 20)]]))
    output = {1: {"instances": instances([(0, 0, 20, 20)], [1.0], classes=[2])}}
    with pytest.raises(UserError, match=r"predicts class 2, but test_evaluation_0 has 2 classes"):
        evaluate(name, output)


@pytest.mark.parametrize("annotations", [None, []])
def test_without_annotations_there_are_files_but_no_figures(register_dataset, tmp_path, caplog, annotations):
    content = coco_dataset([[]])
    name = register_dataset(content)
    if annotations is None:
        del content["annotations"]
    Path(MetadataCatalog.get(name).json_file).write_text(json.dumps(content))
    output = {"instances": instances([(0, 0, 9, 9)], [1.0]), "proposals": rpn_proposals([(0, 0, 9, 9)], [1.0])}
    assert evaluate(name, {1: output}, output_dir=tmp_path) == {}
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == [
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 9, 9], "score": 1}
    ]
    assert (tmp_path / "box_proposals.pkl").exists()
    assert f"no annotations, so there are no figures; what the model found is in {tmp_path}" in caplog.text


@pytest.mark.parametrize("rank", [0, 1])
def test_only_rank_0_returns_results(register_dataset, monkeypatch, rank):
    boxes = [(0, 0, 20, 20)]
    evaluator = FCOSEvaluator(register_dataset(coco_dataset([boxes, boxes])), distributed=True)
    evaluator.process([{"image_id": 1}], [{"proposals": rpn_proposals(boxes, [1.0])}])
    other_rank = [{"image_id": 2, "proposals": rpn_proposals(boxes, [1.0])}]
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "gather", lambda mine, dst: [mine, other_rank] if rank == dst else [])
    monkeypatch.setattr(comm, "is_main_process", lambda: rank == 0)
    results = evaluator.evaluate()
    assert results == {} if rank else results["box_proposals"]["AR@100"] == pytest.approx(100)


def test_all_detections_that_the_model_may_return_count(register_dataset):
    # 150 boxes of one class in a picture, all found.
    boxes = [(13 * column, 13 * row, 13 * column + 9, 13 * row + 9) for column in range(15) for row in range(10)]
    content = coco_dataset([boxes])
    for annotation in content["annotations"]:
        annotation["category_id"] = 7
    name = register_dataset(content)
    output = {1: {"instances": instances(boxes, torch.linspace(1, 0.5, 150).tolist())}}

    def figures(limit):
        evaluator = build_evaluator(name, max_dets_per_image=limit)
        evaluator.process([{"image_id": 1}], [output[1]])
        return evaluator.evaluate()

    for limit in (300, -1, None):
        assert figures(limit)["bbox"]["AP"] == pytest.approx(100)
        assert figures(limit)["box_detections"]["AR@100"] == pytest.approx(100 * 100 / 150)
    # Fewer than COCO's 100 need no other protocol. 100 of 150 are found: the precision is 1 at 67 of 101 recalls.
    for limit in (100, 10):
        assert figures(limit)["bbox"]["AP"] == pytest.approx(100 * 67 / 101)


def records(*image_ids):
    """Of data sets that are registered without a json: an object of each class in every image."""
    return [
        {
            "image_id": image_id,
            "file_name": "",
            "height": 200,
            "width": 200,
            "annotations": [
                {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "keypoints": [9, 9, 2] * 17}
                for label, box in enumerate([(0, 0, 20, 20), (50, 50, 90, 90)])
            ],
        }
        for image_id in image_ids
    ]


def perfect_output():
    return {"instances": instances([(0, 0, 20, 20), (50, 50, 90, 90)], [0.9, 0.8], classes=[0, 1])}


@pytest.fixture
def register_records():
    def register(of_data_set, **metadata):
        DatasetCatalog.register("test_records", lambda: of_data_set)
        MetadataCatalog.get("test_records").set(thing_classes=["cat", "dog"], **metadata)
        return "test_records"

    yield register
    DatasetCatalog.remove("test_records")
    MetadataCatalog.remove("test_records")


def test_data_sets_without_a_json_are_converted_anew(register_records, tmp_path):
    of_data_set = records(np.str_("000001"), np.int64(-3), 2**60)  # Pascal VOC's are numpy's
    name = register_records(of_data_set)
    before = copy.deepcopy(of_data_set)
    outputs = {record["image_id"]: perfect_output() for record in of_data_set}
    assert evaluate(name, outputs, output_dir=tmp_path)["bbox"]["AP"] == pytest.approx(100)
    assert of_data_set == before  # Detectron2's conversion moves the keypoints
    found = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [entry["image_id"] for entry in found[::2]] == ["000001", -3, 2**60]

    # The same, numbered by the loader, of which one number is another image's own id.
    original_ids = {3: "000001", 2**60: -3, 1: 2**60}
    MetadataCatalog.get(name).original_image_ids = original_ids
    for record, number in zip(of_data_set, original_ids, strict=True):
        record["image_id"] = number
    outputs = {number: perfect_output() for number in original_ids}
    assert evaluate(name, outputs, output_dir=tmp_path)["bbox"]["AP"] == pytest.approx(100)
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == found

    of_data_set.append(records("new")[0])
    evaluator = FCOSEvaluator(name, distributed=False, output_dir=tmp_path)
    assert [image["id"] for image in evaluator.dataset["images"]] == ["000001", -3, 2**60, "new"]


def test_records_without_annotations_have_no_figures(register_records):
    of_data_set = records("a")
    of_data_set[0]["annotations"] = []
    assert evaluate(register_records(of_data_set), {"a": perfect_output()}) == {}


def test_files_name_the_images_as_their_json_does(register_dataset, tmp_path):
    boxes = [(0, 0, 20, 20), (50, 50, 90, 90)]
    content = coco_dataset([boxes, boxes])
    for image, original_id in zip(content["images"], ["first", 2**60], strict=True):
        image["original_id"] = original_id
    name = register_dataset(content)
    MetadataCatalog.get(name).original_image_ids = {1: "first", 2: 2**60}
    outputs = {number: {**perfect_output(), "proposals": rpn_proposals(boxes, [1, 2])} for number in (1, 2)}
    results = evaluate(name, outputs, output_dir=tmp_path)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["box_proposals"]["AR@100"] == pytest.approx(100)
    found = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [entry["image_id"] for entry in found] == ["first", "first", 2**60, 2**60]
    assert pickle.loads((tmp_path / "box_proposals.pkl").read_bytes())["ids"] == ["first", 2**60]


def test_proposal_files_are_read_by_the_safe_loader_and_by_detectron2(register_dataset, tmp_path):
    boxes = [(0, 0, 20, 20), (50, 50, 90, 90)]
    name = register_dataset(coco_dataset([boxes, boxes]))
    outputs = {number: {"proposals": rpn_proposals(boxes, [-1.5, number])} for number in (1, 2)}
    evaluate(name, outputs, output_dir=tmp_path)
    file = tmp_path / "box_proposals.pkl"
    assert load_pickle(file)["ids"] == [1, 2]
    loaded = load_proposals_into_dataset([{"image_id": 2}], str(file))
    assert loaded[0]["proposal_boxes"].tolist() == [[50, 50, 90, 90], [0, 0, 20, 20]]  # best first
    assert loaded[0]["proposal_objectness_logits"].tolist() == [2, -1.5]


@pytest.mark.parametrize(
    ("evaluator_type", "protocol", "is_told"),
    [("coco", "coco", False), ("lvis", "lvis", False), ("pascal_voc", "coco", True), (None, "coco", True)],
)
def test_the_data_set_decides_the_protocol(register_records, monkeypatch, caplog, evaluator_type, protocol, is_told):
    metadata = {} if evaluator_type is None else {"evaluator_type": evaluator_type}
    name = register_records(records("a"), **metadata)
    called = []
    for own, function in (("coco", "average_precision"), ("lvis", "lvis_average_precision")):
        monkeypatch.setattr(evaluator_module, function, lambda *_, own=own, **__: called.append(own) or {})
    with caplog.at_level(logging.INFO):
        evaluator = build_evaluator(name)
    evaluator.process([{"image_id": "a"}], [perfect_output()])
    evaluator.evaluate()
    assert called == [protocol]
    assert ("is evaluated by COCO's protocol" in caplog.text) == is_told


def test_lvis_needs_hotcoco(register_records):
    name = register_records(records("a"), evaluator_type="lvis")
    with pytest.raises(UserError, match=r"only hotcoco has LVIS's protocol; set TEST.COCO_API hotcoco"):
        build_evaluator(name, api="pycocotools")


def test_lvis_classes_are_counted_from_1(register_dataset):
    """Detectron2's LVIS metadata has no map of category ids."""
    content = coco_dataset([[(0, 0, 20, 20), (50, 50, 90, 90)]])
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    name = register_dataset(content)
    metadata = MetadataCatalog.get(name).as_dict()
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(json_file=metadata["json_file"], evaluator_type="lvis")
    evaluator = build_evaluator(name)
    evaluator.process([{"image_id": 1}], [perfect_output()])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.usefixtures("detectron2_restored")
def test_a_json_of_lvis_is_evaluated_by_its_protocol(tmp_path):
    """Image a has a cat (id 2). Nobody looked for cats in image b, so that a detection there does not count; by COCO's
    protocol the surer one makes it 50. Ids of images are text, so that the json is rewritten."""
    content = small_coco()
    content["images"] = [
        image | {"id": id_, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        for id_, image in zip("ab", content["images"][:2], strict=True)
    ]
    content["annotations"] = [content["annotations"][1] | {"image_id": "a"}]
    for category in content["categories"]:
        category["frequency"] = "r"
    name = register_coco_folder(*write_coco(tmp_path, content), output_dir=tmp_path / "output")
    evaluator = build_evaluator(name)
    for record, score in zip(DatasetCatalog.get(name), (0.5, 0.9), strict=True):
        found = Instances(
            (60, 80),
            pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 80.0, 60.0]])),
            scores=torch.tensor([score]),
            pred_classes=torch.tensor([0]),
        )
        evaluator.process([record], [{"instances": found}])
    figures = evaluator.evaluate()["bbox"]
    assert figures["AP"] == figures["APr"] == pytest.approx(100)


def test_class_agnostic_boxes_are_scored_as_the_detections_are():
    # Of one image and of one box a location: what the detector finds of a class is also its class-agnostic box.
    cfg = tiny_config()
    cfg.MODEL.FCOS.update({"NUM_CLASSES": 1, "SCORE_FUSION": "product", "SCORE_THRESH_TEST": 0.0})
    model = build_model(cfg).eval()
    (shown,) = FCOSWithProposals(model, num_boxes=cfg.TEST.DETECTIONS_PER_IMAGE)(tiny_batch([(64, 64)], [0]))
    assert len(shown["instances"]) > 5
    torch.testing.assert_close(shown["proposals"].objectness_logits.sigmoid(), shown["instances"].scores)
    torch.testing.assert_close(shown["proposals"].proposal_boxes.tensor, shown["instances"].pred_boxes.tensor)
