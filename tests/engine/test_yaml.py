"""Data sets and models of Detectron2's kinds, from a YAML config to results."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from detectron2.data.datasets import register_pascal_voc
from PIL import Image

from fcos_rpn.checkpoint.safe_loading import load_pickle
from fcos_rpn.engine import yaml
from fcos_rpn.engine.setup import use_datasets
from tests.tiny import tiny_config, write_coco_folder

pytestmark = pytest.mark.usefixtures("detectron2_restored")


def evaluate(cfg) -> tuple[Mapping, Path]:
    """Results of an untrained model, and the folder of what it found."""
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.0
    use_datasets(cfg, is_training=False)
    results = yaml.evaluate(cfg, yaml.build_model(cfg))
    return results, Path(cfg.OUTPUT_DIR, "inference", cfg.DATASETS.TEST[0])


def images_in(folder: Path) -> set:
    return {found["image_id"] for found in json.loads((folder / "coco_instances_results.json").read_text())}


def test_fast_rcnn_learns_from_the_proposals_that_an_evaluation_wrote(tmp_path):
    images, json_file = write_coco_folder(tmp_path / "coco")
    content = json.loads(Path(json_file).read_text())
    names = {image["id"]: f"{image['id']}.png of the camera" for image in content["images"]}
    for entry, key in [(image, "id") for image in content["images"]] + [
        (a, "image_id") for a in content["annotations"]
    ]:
        entry[key] = names[entry[key]]
    Path(json_file).write_text(json.dumps(content))
    rpn, fast = tiny_config("ProposalNetwork"), tiny_config("GeneralizedRCNN")
    rpn.OUTPUT_DIR, fast.OUTPUT_DIR = str(tmp_path / "rpn"), str(tmp_path / "fast")
    rpn.DATASETS.TEST_FOLDERS = fast.DATASETS.TRAIN_FOLDERS = fast.DATASETS.TEST_FOLDERS = [[images, json_file]]
    _, found = evaluate(rpn)
    file = found / "box_proposals.pkl"
    assert set(load_pickle(file)["ids"]) == set(names.values())

    fast.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    fast.MODEL.LOAD_PROPOSALS = True
    fast.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    fast.DATASETS.PROPOSAL_FILES_TRAIN = fast.DATASETS.PROPOSAL_FILES_TEST = (str(file),)
    use_datasets(fast)
    results = yaml.build_trainer(fast).train()
    assert results.keys() == {"bbox", "box_detections"}
    assert images_in(tmp_path / "fast" / "inference" / fast.DATASETS.TEST[0]) == set(names.values())
    # The boxes are small, so that the AP of large ones is not a number.
    lines = (tmp_path / "fast" / "metrics.json").read_text().splitlines()
    logged = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert logged[-1]["bbox/APl"] is None


def test_pascal_voc_by_name_is_evaluated_with_its_own_ids(tmp_path):
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / part).mkdir(parents=True)
    for name in ("000001", "2008_000002"):
        Image.new("RGB", (96, 64)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(
            "<annotation><size><width>96</width><height>64</height></size><object><name>cat</name><bndbox><xmin>21</xmin>"
            "<ymin>11</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object></annotation>"
        )
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("000001\n2008_000002\n")
    register_pascal_voc("our_voc", str(tmp_path), "test", 2007, class_names=["dog", "cat"])
    cfg = tiny_config()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.DATASETS.TEST = ("our_voc",)
    results, found = evaluate(cfg)
    assert {"AP", "AP-cat", "AP-dog"} <= results["bbox"].keys()
    assert results["bbox"]["AP"] >= 0
    assert images_in(found) == {"000001", "2008_000002"}


def test_a_json_without_annotations_gives_what_a_server_takes(tmp_path):
    images, json_file = write_coco_folder(tmp_path / "coco")
    content = json.loads(Path(json_file).read_text())
    del content["annotations"]
    Path(json_file).write_text(json.dumps(content))
    cfg = tiny_config()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.DATASETS.TEST_FOLDERS = [[images, json_file]]
    results, found = evaluate(cfg)
    assert results == {}
    assert images_in(found) == {image["id"] for image in content["images"]}
