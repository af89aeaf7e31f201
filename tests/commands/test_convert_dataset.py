import shlex

import numpy as np
import pytest
from PIL import Image

from fcos_rpn.commands import check_dataset, convert_dataset
from fcos_rpn.data.coco.annotations import load_annotations
from fcos_rpn.errors import UserError
from tests.data.formats.test_xml import write_voc
from tests.tiny import tiny_config

pytestmark = pytest.mark.usefixtures("detectron2_restored")

LABELS = {"train": ("1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n", None), "val": ("0 0.5 0.5 0.5 0.5\n", "")}


@pytest.fixture
def yolo(tmp_path):
    """Two pictures a split, the last of train without a label file and the last of val with an empty one."""
    pixels = np.random.default_rng(0)
    for split, texts in LABELS.items():
        images, labels = (tmp_path / "yolo" / kind / split for kind in ("images", "labels"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i, text in enumerate(texts):
            Image.fromarray(pixels.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(images / f"{i}.png")
            if text is not None:
                (labels / f"{i}.txt").write_text(text)
    data_yaml = tmp_path / "yolo" / "data.yaml"
    data_yaml.write_text("train: images/train\nval: images/val\nnames: {0: zebra, 1: cat}\n")
    return data_yaml


def convert(*arguments):
    return convert_dataset.main([str(argument) for argument in arguments])


def test_the_printed_command_finds_no_errors(yolo, tmp_path, capsys):
    assert convert(yolo, "--output", tmp_path / "coco") == 0
    *written, last = capsys.readouterr().out.splitlines()
    assert written == [
        f"{tmp_path}/coco/{name}.json: 2 images ({empty} without boxes), {boxes}, classes zebra, cat; pictures in "
        f"{yolo.parent}/images/{name}"
        for name, empty, boxes in (("train", 1, "2 boxes"), ("val", 1, "1 box"))
    ]
    command = shlex.split(last.removeprefix("next: fcos-rpn check "))
    (tmp_path / "tiny.yaml").write_text(tiny_config().dump())
    assert check_dataset.main([*command, "--config-file", str(tmp_path / "tiny.yaml")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 errors")


def test_yolo_to_coco_to_yolo(yolo, tmp_path, capsys):
    convert(yolo.parent, "--output", tmp_path / "coco")
    json_files = tmp_path / "coco" / "train.json", tmp_path / "coco" / "val.json"
    folders = yolo.parent / "images" / "train", yolo.parent / "images" / "val"
    convert(*json_files, "--images", *folders, "--output", tmp_path / "again")
    for split, texts in LABELS.items():
        for i, text in enumerate(texts):
            assert (tmp_path / "again" / "labels" / split / f"{i}.txt").read_text() == (text or "")
            picture = f"images/{split}/{i}.png"
            assert (tmp_path / "again" / picture).read_bytes() == (yolo.parent / picture).read_bytes()
    convert(tmp_path / "again" / "data.yaml", "--output", tmp_path / "coco_again")
    for file in json_files:
        assert (tmp_path / "coco_again" / file.name).read_text() == file.read_text()


def test_voc_to_both(tmp_path, capsys):
    write_voc(tmp_path / "voc")
    convert(tmp_path / "voc", "--output", tmp_path / "coco")
    assert "2 boxes (1 of them crowd or difficult)" in capsys.readouterr().out
    checked = load_annotations(tmp_path / "coco" / "train.json", tmp_path / "voc" / "JPEGImages")
    assert [image["file_name"] for image in checked.content["images"]] == ["b.png", "c.png"]
    convert(tmp_path / "voc", "--to", "yolo", "--output", tmp_path / "yolo")
    assert (tmp_path / "yolo" / "labels" / "train" / "b.txt").read_text() == "1 0.125 0.25 0.25 0.5\n"


def test_wrong_arguments(yolo, tmp_path):
    def refused(*arguments) -> str:
        with pytest.raises(UserError) as error:
            convert(*arguments, "--output", tmp_path / "out")
        return str(error.value)

    convert(yolo, "--output", tmp_path / "coco")
    train, val = tmp_path / "coco" / "train.json", tmp_path / "coco" / "val.json"
    images = yolo.parent / "images"
    assert "there is no such file" in refused(tmp_path / "nowhere")
    assert "neither a data.yaml (YOLO) nor Annotations/" in refused(tmp_path)
    assert "give --images FOLDER" in refused(train)
    assert "give one folder, or one for each of the 2" in refused(train, val, "--images", images, images, images)
    assert "is in COCO's format already" in refused(train, "--images", images / "train", "--to", "coco")
    assert "its name must say which split it is" in refused(train, train, "--images", images / "train")
    assert "leave the option out" in refused(yolo, "--images", images)
    assert "only COCO's json files are converted together" in refused(yolo, yolo)
    val.write_text(val.read_text().replace("zebra", "emu"))
    folders = images / "train", images / "val"
    assert "has the classes emu, cat, but " in refused(train, val, "--images", *folders)
    assert not (tmp_path / "out").exists()
