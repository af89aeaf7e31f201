"""`fcos-rpn analyze-detections` within this process."""

import json

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

from fcos_rpn import UserError
from fcos_rpn.commands import analyze_detections
from tests.tiny import tiny_config, write_coco_folder


def config(name: str) -> CfgNode:
    cfg = tiny_config({"one": "FCOS", "retina": "RetinaNet", "two": "GeneralizedRCNN"}.get(name, "ProposalNetwork"))
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    if name == "anchors":
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    return cfg


@pytest.fixture
def model(tmp_path):
    """The arguments of a model with random weights."""

    def model(title, name):
        torch.manual_seed(0)
        cfg = config(name)
        (tmp_path / f"{name}.yaml").write_text(cfg.dump())
        torch.save(build_model(cfg).state_dict(), tmp_path / f"{name}.pth")
        return ["--model", title, str(tmp_path / f"{name}.yaml"), str(tmp_path / f"{name}.pth")]

    return model


@pytest.fixture
def run(detectron2_restored, tmp_path, capsys):
    images, json_file = write_coco_folder(tmp_path / "coco")

    def run(*arguments):
        analyze_detections.main(["--test", images, json_file, "--output", str(tmp_path / "output"), *arguments])
        return capsys.readouterr().out

    return run


def test_all_kinds_of_models_in_one_run(run, model, tmp_path):
    output = run(
        *(*model("One stage", "one"), *model("FCOSRPN", "two"), *model("RPN", "anchors"), *model("RetinaNet", "retina"))
    )

    names = {path.name for path in (tmp_path / "output").iterdir()}
    plots = ("precision_recall", "score_iou_one_stage", "score_iou_fcosrpn")
    assert names >= {"results.json", *(f"{name}.{suffix}" for name in plots for suffix in ("png", "svg"))}
    assert not any("score_iou_rpn" in name or "retina" in name for name in names)
    assert Image.open(tmp_path / "output" / "precision_recall.png").size[0] > 1600

    results = json.loads((tmp_path / "output" / "results.json").read_text())
    assert list(results) == ["One stage", "FCOSRPN", "RPN", "RetinaNet"]
    for figures in results.values():
        assert list(figures["class_agnostic"]) == ["AP", "AP50", "AP75", "AP90"]
    for title in ("One stage", "FCOSRPN"):
        assert list(results[title]["rank_correlation_with_iou"]) == ["class_probability", "score"]
        assert 0 <= results[title]["ambiguous_locations"]["across_classes"] <= 100
    assert list(results["RPN"]) == ["class_agnostic"]

    rows = {line[:12].strip(): line for line in output.splitlines()}
    assert "detections" in rows["RetinaNet"]
    assert "proposals" in rows["RPN"]
    assert "rank correlation" in output


def test_boxes_are_judged_in_pixels_of_the_annotated_image(run, model, tmp_path, monkeypatch):
    """A model that finds every ground-truth box at the network's input size, which here is larger than the image."""

    def find_all(_, batched_inputs, *, limit):
        (x,) = batched_inputs
        gt = x["instances"]
        found = analyze_detections.Instances(gt.image_size, pred_boxes=gt.gt_boxes, scores=torch.ones(len(gt)))
        ones = torch.ones(len(gt))
        return [(found, analyze_detections.BoxOrigins(ones, ones, ones, ones.long(), ones.long()))]

    monkeypatch.setattr(analyze_detections, "find_with_origins", find_all)
    run(*model("One stage", "one"), "INPUT.MIN_SIZE_TEST", "128")
    results = json.loads((tmp_path / "output" / "results.json").read_text())
    assert results["One stage"]["class_agnostic"] == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100, "AP90": 100})


def test_mistakes(run, model, capsys):
    first = model("One stage", "one")
    with pytest.raises(SystemExit):
        run(*first, *model("one-stage", "one"))
    assert "titles must differ" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no file .*gone\.pth"):
        run(*first, "--model", "other", first[2], "gone.pth")
