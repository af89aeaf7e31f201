"""tools/check_dataset.py within this process."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from fcos_rpn.commands import check_dataset as tool
from fcos_rpn.config import read_config
from fcos_rpn.data.coco.rules import LISTS
from tests.data.coco.test_annotations_properties import mutated_coco
from tests.data.small_coco import coco_with_shapes, small_coco, write_coco
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


pytestmark = pytest.mark.usefixtures("detectron2_restored")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """P3 to P7 of images as they are: the first locations are 4 pixels from the edge, and 8 apart."""
    cfg = tiny_config()
    cfg.INPUT.MIN_SIZE_TEST = 0
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(cfg.dump())
    return file


@pytest.fixture(scope="module")
def learner(config) -> tool.Learner:
    return tool.Learner(read_config(str(config)))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Holds a data set without a finding but the images' number: photos/ and pets.json."""
    content = small_coco()
    content["categories"].pop()  # of the parrot, which nobody has seen
    content["annotations"][2]["iscrowd"] = 0
    write_coco(tmp_path, content)
    for i, image in enumerate(content["images"]):
        Image.new("RGB", (80, 60), (i, 0, 0)).save(tmp_path / "photos" / image["file_name"])
    return tmp_path


def change(folder: Path, **lists: list[dict]) -> None:
    content = json.loads((folder / "pets.json").read_text())
    (folder / "pets.json").write_text(json.dumps(content | lists))


def run(folder: Path, config: Path, *more: object) -> int:
    arguments = "--images", folder / "photos", "--annotations", folder / "pets.json", "--config-file", config, *more
    return tool.main([str(argument) for argument in arguments])


def test_no_errors(folder, config, capsys):
    assert run(folder, config) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"warning: {folder / 'pets.json'}: 2 of 4 images have no boxes, first image 12; they train as background",
        "0 errors, 1 warning",
    ]
    assert "4/4" in captured.err  # the bar
    assert run(folder, config, "--strict") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 error, 0 warnings"


def test_errors_come_a_line_each_and_are_counted(folder, config, capsys):
    annotations = json.loads((folder / "pets.json").read_text())["annotations"]
    annotations[0]["bbox"] = [10, 20, -30, 40]
    change(folder, annotations=[*annotations, annotations[2] | {"id": 104}])
    (folder / "photos" / "12.png").write_bytes(b"")
    assert run(folder, config) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "2 errors, 4 warnings"  # no dog is left, either, and two equal boxes share their locations
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors[0].startswith(
        "error: annotation 101 of image 11 (11.png): bbox [10, 20, -30, 40] has a negative size"
    )
    assert errors[1].startswith("error: image 12 (12.png): not a picture, but an empty file")


def test_masks_and_keypoints_are_those_of_the_config(folder, config, capsys):
    for key, learned in (("MASK_ON", "masks"), ("KEYPOINT_ON", "keypoints")):
        assert run(folder, config, f"MODEL.{key}", "True") == 1
        assert f"dropped, since the model learns {learned}" in capsys.readouterr().out


def test_the_format_of_masks_is_that_of_the_config(folder, config, capsys):
    change(folder, annotations=coco_with_shapes()["annotations"][:2])  # a polygon and a run-length encoding
    assert run(folder, config, "MODEL.MASK_ON", "True") == 1
    assert "pets.json: 1 outlines are run-length encodings" in capsys.readouterr().out
    assert run(folder, config, "MODEL.MASK_ON", "True", "INPUT.MASK_FORMAT", "bitmask") == 0


def test_boxes_that_no_location_learns(folder, config, capsys):
    box = {"image_id": 12, "category_id": 2, "area": 1, "iscrowd": 0}
    boxes = {
        201: [0, 0, 3, 3],  # ends before the first location, at 4, 4
        202: [5, 5, 6, 6],  # between 4 and 12
        203: [3, 3, 3, 3],  # holds 4, 4
        204: [2, 2, 9, 9],  # holds it too, but is larger
    }
    change(folder, annotations=[box | {"id": id_, "bbox": bbox} for id_, bbox in boxes.items()])
    assert run(folder, config) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "no location" in line]
    text = "no location learns this box of {0} x {0} pixels, {0} x {0} at the size of the network's input: {1}"
    assert lines == [
        f"warning: annotation {id_} of image 12 (12.png): {text.format(side, cause)}"
        for id_, side, cause in (
            (201, 3, "it lies between all of them"),
            (202, 6, "it lies between all of them"),
            (204, 9, "smaller boxes take all of its own"),
        )
    ]
    assert run(folder, config, "INPUT.MIN_SIZE_TEST", "240", "INPUT.MAX_SIZE_TEST", "1000") == 0  # four times as large
    assert "no location" not in capsys.readouterr().out


def test_an_image_that_resizing_would_make_flat(folder, config, capsys):
    Image.new("RGB", (2000, 1)).save(folder / "photos" / "11.png")
    annotation = {"id": 1, "image_id": 11, "category_id": 2, "bbox": [0, 0, 9, 1], "area": 9, "iscrowd": 0}
    images = [{"id": 11, "file_name": "11.png", "width": 2000, "height": 1}]
    change(folder, images=images, annotations=[annotation])
    assert run(folder, config, "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "100") == 1
    assert "error: image 11 (11.png): so long that it is resized to 100 x 0 pixels" in capsys.readouterr().out


def test_two_sets(folder, config, capsys):
    shutil.copytree(folder, folder / "val")
    val = folder / "val"
    for name in ("12.png", "13.png"):
        Image.new("RGB", (80, 60), "white").save(val / "photos" / name)
    (val / "photos" / "14.png").write_bytes(b"")
    change(val, categories=[{"id": 2, "name": "cat"}, {"id": 5, "name": "wolf"}])
    sets = "--val-images", val / "photos", "--val-annotations", val / "pets.json"
    assert run(folder, config, *sets, "--report", folder / "new" / "report") == 1
    lines = capsys.readouterr().out.splitlines()
    empty = "2 of 4 images have no boxes, first image 12; they train as background"
    assert lines[:2] == [
        f"warning: train {folder / 'pets.json'}: {empty}",
        f"warning: val {val / 'pets.json'}: {empty}",
    ]
    assert lines[2].startswith("error: val image 14 (14.png): not a picture, but an empty file")
    assert lines[3:] == [
        "warning: val image 13 (13.png): the same picture as image 12 (12.png); is one of them enough?",
        "error: categories: only train has dog; only val has wolf; give both json files the same categories in the "
        "same order of ids",
        "warning: val image 11 (11.png): the same picture as train image 11 (11.png); take it out of one set, or AP "
        "lies",
        f"report: {folder / 'new' / 'report'}",
        "2 errors, 4 warnings",
    ]
    files = sorted(path.relative_to(folder / "new" / "report") for path in (folder / "new").rglob("*.*"))
    assert [str(path) for path in files] == [
        "findings.json",
        *(f"{name}/{file}" for name in ("train", "val") for file in ("histograms.png", "histograms.svg", "images.jpg")),
    ]
    found = json.loads((folder / "new" / "report" / "findings.json").read_text())
    assert [f"{finding['level']}: {finding['place']}: {finding['text']}" for finding in found] == lines[:-2]
    with Image.open(folder / "new" / "report" / "train" / "images.jpg") as sheet:
        assert sheet.width == 2 * 600  # images 11 and 13 have boxes


def test_a_report_on_nothing(folder, config, capsys):
    (folder / "pets.json").write_text("{")
    assert run(folder, config, "--report", folder / "report") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 error, 0 warnings"
    assert sorted(path.name for path in (folder / "report").iterdir()) == [
        "findings.json",
        "histograms.png",
        "histograms.svg",
    ]


def test_no_more_lines_of_a_kind_than_the_limit(folder, config, capsys):
    for file in (folder / "photos").iterdir():
        file.write_bytes(b"")
    for limit, shown in ((3, 3), (4, 4), (0, 4)):
        assert run(folder, config, "--limit", limit) == 1
        lines = capsys.readouterr().out.splitlines()
        assert sum("an empty file" in line for line in lines) == shown
        assert ("unreadable picture: 1 more that are not shown; --limit 0 shows all" in lines) == (limit == 3)
        assert lines[-1] == "4 errors, 1 warning"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--val-images", "photos"], "--val-images and --val-annotations go together"),
        (["--limit", "-1"], "--limit must be 0 or more"),
        (["--config-file", "nowhere.yaml"], "no config file nowhere.yaml"),
        (["--report", "pets.json/report"], "cannot be made or written"),
        (["MODEL.FCOS.NO_SUCH_KEY", "1"], "NO_SUCH_KEY"),
        (["MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], "cannot be analyzed"),
    ],
)
def test_wrong_arguments(folder, config, capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stopped:
        run(folder, config, *arguments)
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=mutated_coco())
def test_any_value_anywhere_gives_findings(tmp_path, learner, content):
    """All that `main` does with a json, but for reading the config again."""
    images, json_file = tmp_path / "photos", tmp_path / "pets.json"
    if not images.is_dir():
        write_coco(tmp_path, content)
    json_file.write_text(json.dumps(content))
    checked = tool.check_json(json_file, images)
    pictures = tool.check_pictures(images, checked.pictures)
    assert all(map(str, learner.findings(checked, pictures)))


@pytest.mark.skipif(not (SHARED / "cbc").is_dir(), reason="needs the blood cells")
def test_blood_cells(config, capsys, tmp_path):
    content = json.loads((SHARED / "cbc" / "instances_test.json").read_text())
    images = content["images"][:10]
    kept = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in kept]
    lists = dict(zip(LISTS, (content["categories"], images, annotations), strict=True))
    (tmp_path / "pets.json").write_text(json.dumps(lists))
    (tmp_path / "photos").symlink_to(SHARED / "cbc" / "images")
    assert run(tmp_path, config, "INPUT.MIN_SIZE_TEST", "480") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 errors")
