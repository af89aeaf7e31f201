"""`fcos-rpn demo` within this process."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from fcos_rpn import Predictor, UserError
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.commands import demo
from tests.tiny import tiny_config

ARCHITECTURES = {"one": "FCOS", "two": "GeneralizedRCNNWithProposals", "network": "ProposalNetwork"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The arguments of a model with random weights."""
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def model(name: str) -> list[str]:
        torch.manual_seed(0)
        cfg = tiny_config(ARCHITECTURES[name])
        cfg.MODEL.FCOS.SCORE_THRESH_TEST = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
        (folder / f"{name}.yaml").write_text(cfg.dump())
        FCOSCheckpointer(build_model(cfg), str(folder), class_names=["red", "blue"]).save(name)
        return ["--config-file", str(folder / f"{name}.yaml"), "--weights", str(folder / f"{name}.pth")]

    return model


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three pictures of noise, one of them gray, besides a text and a folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.jpg", "more/c.PNG")):
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if name == "b.jpg" else "RGB").save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def run(tmp_path, capsys):
    def run(*arguments: object) -> tuple[list[str], str, str]:
        """Names of the pictures that it made, what it says, and what it complains about."""
        output = tmp_path / "output"
        demo.main(["--output", str(output), *map(str, arguments)])
        said = capsys.readouterr()
        assert all(min(Image.open(file).size) > 200 for file in output.glob("*.png"))
        return sorted(file.name for file in output.glob("*.png")), said.out, said.err

    return run


@pytest.fixture
def found_by_hand(monkeypatch):
    """Whatever the picture: two reds and a blue, of different scores."""

    def find(self, image):
        boxes = Boxes(torch.tensor([[10.0, 20, 50, 60], [0, 0, 8, 4], [30, 30, 90, 60]]))
        scores, classes = torch.tensor([0.9, 0.4, 0.35]), torch.tensor([0, 0, 1])
        return Instances(image.shape[:2], pred_boxes=boxes, scores=scores, pred_classes=classes)

    monkeypatch.setattr(Predictor, "__call__", find)


def test_all_that_a_two_stage_model_can_show(run, model, photos, tmp_path):
    report = tmp_path / "boxes.json"
    pictures, said, _ = run(
        *model("two"),
        *("--input", photos, "--proposals", "5", "--centerness", "--score-thresh", "0.0", "--json", report),
        *("TEST.DETECTIONS_PER_IMAGE", "3"),
    )
    kinds = ("centerness", "detections", "proposals")
    assert pictures == [f"{name}_{kind}.png" for name in "ab" for kind in kinds]
    assert "Drawn: 2, skipped: 0." in said
    detections = json.loads(report.read_text())
    assert [detection["image_id"] for detection in detections] == [1, 1, 1, 2, 2, 2]
    assert f"Detections: 6 in {report}" in said


def test_detections_over_the_score_of_their_class_are_reported_with_ids_that_a_table_explains(
    run, model, photos, tmp_path, found_by_hand
):
    table = tmp_path / "boxes_images.json"
    arguments = [*model("one"), "--input", photos / "a.png", "--json", tmp_path / "boxes.json"]
    red, less_red, blue = (
        {"image_id": 1, "category_id": category_id, "bbox": bbox, "score": pytest.approx(score)}
        for category_id, bbox, score in (
            (1, [10, 20, 40, 40], 0.9),
            (1, [0, 0, 8, 4], 0.4),
            (2, [30, 30, 60, 30], 0.35),
        )
    )
    for thresholds, expected in (
        ([], [red]),
        (["--score-thresh", "0.3"], [red, less_red, blue]),
        (["--class-thresh", "blue=0.3"], [red, blue]),
        (["--class-thresh", "blue=0.36", "red=0.4"], [red, less_red]),
    ):
        run(*arguments, *thresholds)
        assert json.loads((tmp_path / "boxes.json").read_text()) == expected
    assert json.loads(table.read_text()) == {
        "images": [{"id": 1, "file_name": str(photos / "a.png"), "width": 96, "height": 64}],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }


def test_unreadable_pictures_are_named_and_skipped(run, model, photos, tmp_path):
    (photos / "a.png").write_bytes(b"PNG?")
    arguments = [*model("one"), "--json", tmp_path / "boxes.json", "--input"]
    pictures, said, complaints = run(*arguments, photos)
    assert pictures == ["b_detections.png"]
    assert "Drawn: 1, skipped: 1." in said
    assert f"skipped: {photos / 'a.png'}: not a readable picture" in complaints
    assert [image["id"] for image in json.loads((tmp_path / "boxes_images.json").read_text())["images"]] == [2]
    with pytest.raises(UserError, match="none of the 1 pictures could be read"):
        run(*arguments, photos / "a.png")


def test_inputs_are_files_folders_and_patterns_each_picture_once(photos, monkeypatch):
    a, b, c = photos / "a.png", photos / "b.jpg", photos / "more" / "c.PNG"
    assert demo.find_pictures([str(photos)]) == [a, b]
    assert demo.find_pictures([str(b), str(photos), str(photos / "*.png")]) == [b, a]
    assert demo.find_pictures([f"{photos}/**/*.[pP][nN][gG]"]) == [a, c]
    assert demo.find_pictures([str(photos / "notes.txt")]) == [photos / "notes.txt"]  # named, so that it is tried
    (photos / "x[1].png").touch()
    assert demo.find_pictures([str(photos / "x[1].png")]) == [photos / "x[1].png"]
    monkeypatch.setenv("HOME", str(photos))
    assert demo.find_pictures(["~/more"]) == [c]


def test_pictures_of_the_same_name_do_not_overwrite_each_other():
    files = [Path(name) for name in ("1.png", "x/1.png", "1_2.png", "1.jpg", "2.png")]
    assert demo.named(files) == list(zip(["1", "1_2", "1_2_2", "1_3", "2"], files, strict=True))


def test_pictures_of_the_input_are_never_replaced(run, model, photos):
    with pytest.raises(UserError, match="is a folder of --input"):
        run(*model("one"), "--input", photos, "--output", photos)


def test_names_that_are_given_come_before_the_checkpoints(run, model, photos, tmp_path):
    (tmp_path / "names.txt").write_text("cat\nhot dog\n")
    arguments = [*model("one"), "--input", photos / "a.png", "--json", tmp_path / "boxes.json"]
    run(*arguments, "--class-names", tmp_path / "names.txt", "--class-thresh", "hot dog=0.1", "--",
        "TEST.DETECTIONS_PER_IMAGE", "1")  # fmt: skip
    table = json.loads((tmp_path / "boxes_images.json").read_text())
    assert table["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "hot dog"}]
    assert len(json.loads((tmp_path / "boxes.json").read_text())) <= 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "{photos}/empty"], "empty: this folder has no picture"),
        (["--input", "{photos}/a.png", "TEST.DETECTIONS_PER_IMAGE", "1"], "no such file .* put -- before"),
        (["--input", "{photos}/*.gif"], r"\*\.gif: there is no such file"),
        (["--input", "{photos}", "--proposals", "9"], "FCOS has one stage and proposes nothing"),
        (["--input", "{photos}", "--class-thresh", "cat=0.3"], "no class 'cat'; it has red, blue"),
        (["--input", "{photos}", "--class-thresh", "red"], r"--class-thresh red: must be CLASS=SCORE .* red=0\.3"),
        (["--input", "{photos}", "--class-thresh", "red=30"], "red=30: must be CLASS=SCORE"),
        (["--input", "{photos}", "--json", "{photos}/empty"], "empty: cannot be written"),
        (["--input", "{photos}", "--output", "{photos}/a.png"], "a.png: cannot be made or written"),
        (["--input", "{photos}", "--score-thresh", "0.5", "MODEL.FCSO", "1"], "no config key MODEL.FCSO"),
    ],
)
def test_mistakes(run, model, photos, arguments, expected):
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match=expected):
        run(*model("one"), *(argument.format(photos=photos) for argument in arguments))


def test_a_proposal_network_shows_its_proposals_and_detects_nothing(run, model, photos):
    arguments = [*model("network"), "--input", photos / "a.png"]
    for detecting in ([], ["--proposals", "5", "--json", "boxes.json"]):
        with pytest.raises(UserError, match="ProposalNetwork tells no classes"):
            run(*arguments, *detecting)
    pictures, _, _ = run(*arguments, "--proposals", "5")
    assert pictures == ["a_proposals.png"]


@pytest.mark.parametrize("arguments", [["--score-thresh", "1.5"], ["--proposals", "0"], ["--proposals", "few"]])
def test_numbers_out_of_range_end_with_the_usage(run, capsys, arguments):
    with pytest.raises(SystemExit):
        run("--config-file", "x", "--weights", "x", "--input", "x", *arguments)
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_an_interruption_keeps_what_was_found(run, model, photos, tmp_path, found_by_hand, monkeypatch):
    read = demo.read_rgb

    def interrupt(file):
        if file.name == "b.jpg":
            raise KeyboardInterrupt
        return read(file)

    monkeypatch.setattr(demo, "read_rgb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(*model("one"), "--input", photos, "--json", tmp_path / "boxes.json")
    assert len(json.loads((tmp_path / "boxes.json").read_text())) == 1
    assert len(json.loads((tmp_path / "boxes_images.json").read_text())["images"]) == 1
