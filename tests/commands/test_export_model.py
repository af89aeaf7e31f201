"""`fcos-rpn export` within this process."""

import importlib.util
import json
from pathlib import Path

import onnxruntime
import pytest
import torch

from fcos_rpn import UserError
from fcos_rpn.commands import export_model as tool
from tests.export.small_networks import found_by, noise, small_config, small_model


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_model(meta_architecture="FCOS"):
    """Its config and its weights in the working folder."""
    cfg = small_config(meta_architecture)
    model = small_model(cfg)
    Path("mine.yaml").write_text(cfg.dump())
    torch.save({"model": model.state_dict(), "class_names": ["red", "blue"]}, "mine.pth")
    return model


def run(*arguments: str) -> None:
    tool.main(["--config-file", "mine.yaml", "--weights", "mine.pth", *arguments])


def test_writes_onnx(folder, capsys):
    model = write_model()
    run("--format", "onnx", "--size", "130", "140", "TEST.DETECTIONS_PER_IMAGE", "7")
    (file,) = (folder / "output" / "export").iterdir()
    assert file.name == "mine.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes.pop("class_names")) == ["red", "blue"]
    assert notes == {"channels": "BGR", "min_size": "64", "max_size": "1333"}
    image = noise((161, 200))
    boxes, scores, classes = session.run(None, {"image": image.numpy()})
    assert len(boxes) == len(scores) == len(classes) == 7
    torch.testing.assert_close(torch.from_numpy(boxes), found_by(model, image)[0][:7], rtol=0, atol=1e-4)
    shown = capsys.readouterr().out
    assert shown == "output/export/mine.onnx: image (3, height, width) -> boxes, scores, classes\n"


def test_exports_the_first_stage_of_an_rcnn(folder):
    """As the message about R-CNNs that cannot be exported whole says."""
    write_model("GeneralizedRCNN")
    wanted = ("--format", "torch_export", "--proposals", "5", "--output", "new/proposals.pt2")
    run(*wanted, "MODEL.META_ARCHITECTURE", "ProposalNetwork")
    notes = {"class_names": ""}
    graph = torch.export.load("new/proposals.pt2", extra_files=notes).module()
    assert json.loads(notes["class_names"]) == ["red", "blue"]
    boxes, scores = graph(noise((161, 200)))
    assert (boxes.shape, scores.shape) == ((5, 4), (5,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--size", "100", "200"], r"--size 100 200: height and width must be 129 or more"),
        (["--format", "onnx", "--proposals", "5"], r"--proposals 5: FCOS gives no proposals\. .*DETECTIONS_PER_IMAGE"),
        (["--format", "onnx", "--weights", "nothing.pth"], r"there is no file nothing\.pth"),
        (["--format", "onnx", "--output", "mine.pth/a.onnx"], r"mine\.pth/a\.onnx: cannot be written"),
        (
            ["--format", "onnx", "--proposals", "0", "MODEL.META_ARCHITECTURE", "ProposalNetwork"],
            "--proposals must be 1 or more, not 0",
        ),
    ],
)
def test_mistakes_are_named(folder, arguments, message):
    write_model()
    with pytest.raises(UserError, match=message):
        run(*arguments)
    assert not list(folder.rglob("*.onnx*"))


def test_an_rcnn_that_cannot_be_followed_is_refused(folder):
    write_model("GeneralizedRCNN")
    with pytest.raises(UserError, match=r"FusedScoreROIHeads are not .* first stage can be, .* ProposalNetwork$"):
        run("--format", "onnx", "MODEL.ROI_HEADS.NAME", "FusedScoreROIHeads")


def test_packages_that_are_missing_are_named_first(folder, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(UserError, match=r"--format onnx needs onnxscript, which is not installed"):
        run("--format", "onnx")
