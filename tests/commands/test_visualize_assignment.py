"""`fcos-rpn visualize-assignment` within this process."""

import json

import pytest
from PIL import Image

from fcos_rpn import UserError
from fcos_rpn.commands import visualize_assignment
from tests.tiny import tiny_config, write_coco_folder


@pytest.fixture
def run(detectron2_restored, tmp_path, capsys):
    """Runs the tool with further arguments; what it prints, as lines of words."""
    images, json_file = write_coco_folder(tmp_path / "coco")

    def run(*arguments, cfg=None, annotations=json_file):
        (tmp_path / "config.yaml").write_text((cfg or tiny_config()).dump())
        files = ["--config-file", str(tmp_path / "config.yaml"), "--images", images, "--annotations", str(annotations)]
        visualize_assignment.main([*files, "--output", str(tmp_path / "output"), *arguments])
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return run


def pictures(folder):
    return sorted(path.name for path in (folder / "output").glob("*.png"))


@pytest.mark.parametrize("architecture", ["FCOS", "GeneralizedRCNNWithProposals"])
def test_pictures_and_a_table_in_both_roles(run, tmp_path, architecture):
    header, _, *rows = run("--num-images", "2", cfg=tiny_config(architecture))

    assert pictures(tmp_path) == [f"{image}_{name}.png" for image in (1, 2) for name in ("assignment", "centerness")]
    assert all(Image.open(path).size[0] > 500 for path in (tmp_path / "output").glob("*.png"))
    levels = " ".join(f"stride {stride}" for stride in (8, 16, 32, 64, 128))
    assert " ".join(header) == f"image boxes learned {levels} ambiguous"
    assert [row[:2] for row in rows[:2]] == [["1", "2"], ["2", "2"]]
    # Sides are from 12 to 40 pixels: all boxes belong to P3, where each holds a location.
    assert all(int(row[3]) > 0 and row[4:8] == ["0"] * 4 for row in rows[:2])


def test_overrides_of_the_config(run):
    # The small side of 64 becomes 512, so that boxes are 8 times as long and leave P3.
    rows = run("--image-id", "1", "INPUT.MIN_SIZE_TEST", "512", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", "0.0")
    assert sum(map(int, rows[2][4:8])) > 0


def test_images_by_id(run, tmp_path):
    run("--image-id", "3", "--image-id", "1")
    assert pictures(tmp_path) == [f"{image}_{name}.png" for image in (1, 3) for name in ("assignment", "centerness")]


def test_images_without_boxes_are_drawn_by_id_only(run, tmp_path):
    content = json.loads((tmp_path / "coco" / "instances.json").read_text())
    content["annotations"] = [annotation for annotation in content["annotations"] if annotation["image_id"] > 1]
    (tmp_path / "some.json").write_text(json.dumps(content))
    rows = run("--num-images", "1", annotations=tmp_path / "some.json")
    assert rows[2][0] == "2"
    rows = run("--image-id", "1", annotations=tmp_path / "some.json")
    assert rows[2] == ["1", *["0"] * 8]

    (tmp_path / "none.json").write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(UserError, match="no image of the annotations has a box"):
        run(annotations=tmp_path / "none.json")


def test_mistakes(run, tmp_path):
    with pytest.raises(UserError, match="no image 99; they begin with 1, 2, 3, 4"):
        run("--image-id", "1", "--image-id", "99")
    with pytest.raises(UserError, match=r"the config has no FCOS:.* ProposalNetwork and RPN"):
        run(cfg=tiny_config("ProposalNetwork", "RPN"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/folder: cannot be made or written"):
        run("--output", str(tmp_path / "file" / "folder"))
