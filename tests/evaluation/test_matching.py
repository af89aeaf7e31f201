import logging

import pycocotools.cocoeval
import pytest

from fcos_rpn.errors import UserError
from fcos_rpn.evaluation import average_recall, precision_recall, recall_by_iou
from fcos_rpn.evaluation.matching import coco_api
from tests.evaluation.cases import WORKED_ANNOTATIONS, WORKED_PROPOSALS, assert_equal_figures


def test_pycocotools_is_announced_as_slow(coco_library, caplog):
    with caplog.at_level(logging.WARNING):
        average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS)
        average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS)
    warnings = [record for record in caplog.records if "pip install '.[fast-eval]'" in record.getMessage()]
    assert len(warnings) == {"hotcoco": 0, "pycocotools": 1}[coco_library]


def test_either_library_can_be_chosen(monkeypatch):
    assert issubclass(coco_api("pycocotools").coco_eval, pycocotools.cocoeval.COCOeval)

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(pycocotools.cocoeval.COCOeval, "accumulate", fail)
    for function in (average_recall, recall_by_iou, precision_recall):
        function(WORKED_ANNOTATIONS, WORKED_PROPOSALS)
        with pytest.raises(ZeroDivisionError):
            function(WORKED_ANNOTATIONS, WORKED_PROPOSALS, api="pycocotools")
    with pytest.raises(UserError, match=r"no COCO API 'pycoco'.*hotcoco, pycocotools"):
        average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS, api="pycoco")


def test_user_errors_name_file_and_image(tmp_path):
    with pytest.raises(UserError, match=r"image id 11 \(2 such ids\)"):
        average_recall(WORKED_ANNOTATIONS, {"9": ([(0, 0, 1, 1)], [1.0]), 11: ([], [])})
    with pytest.raises(UserError, match=r"missing\.json"):
        average_recall(tmp_path / "missing.json", {})
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"half\.json"):
        average_recall(tmp_path / "half.json", {})
    (tmp_path / "images.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"images\.json: no 'images' or no 'annotations'"):
        average_recall(tmp_path / "images.json", {})


def test_ids_of_images_are_names(coco_library):
    # 2**53 + 1 is no float: rounded, it would be the image beside it.
    names = {1: 2**53, 2: "a b.png", 3: 2**53 + 1}
    annotations = {
        "images": [{"id": names[image["id"]]} for image in WORKED_ANNOTATIONS["images"]],
        "annotations": [
            {**annotation, "image_id": names[annotation["image_id"]]}
            for annotation in [*WORKED_ANNOTATIONS["annotations"]]
        ],
    }
    renamed = {names[image_id]: boxes for image_id, boxes in WORKED_PROPOSALS.items()}
    assert_equal_figures(average_recall(annotations, renamed), average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS))


def test_annotations_of_images_that_are_not_listed_do_not_count(coco_library):
    stray = {**WORKED_ANNOTATIONS["annotations"][0], "image_id": 99}
    annotations = {**WORKED_ANNOTATIONS, "annotations": [*WORKED_ANNOTATIONS["annotations"], stray]}
    expected = average_recall(WORKED_ANNOTATIONS, WORKED_PROPOSALS)
    assert_equal_figures(average_recall(annotations, WORKED_PROPOSALS), expected)
