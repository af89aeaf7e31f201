"""`fcos-rpn analyze` within this process."""

import json
from pathlib import Path

import pytest
import yaml
from detectron2.modeling import build_model

from fcos_rpn import UserError
from fcos_rpn.commands import analyze_assignment as tool
from fcos_rpn.config import read_config
from tests.tiny import tiny_config, write_coco_folder

pytestmark = pytest.mark.usefixtures("detectron2_restored")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Holds a config and a data set."""
    write_coco_folder(tmp_path / "coco", num_images=6)
    (tmp_path / "tiny.yaml").write_text(tiny_config().dump())
    return tmp_path


def run(*arguments: object) -> None:
    tool.main([str(argument) for argument in arguments])


def given(folder: Path) -> tuple[object, ...]:
    return "--config-file", folder / "tiny.yaml", "--annotations", folder / "coco" / "instances.json"


def test_table_and_json(folder, capsys):
    run(*given(folder), "--output", folder / "new" / "out.json", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", "0.0")
    captured = capsys.readouterr()
    assert "best possible recall" in captured.out
    assert "6/6" in captured.err  # the bar
    found = json.loads((folder / "new" / "out.json").read_text())
    assert found["num_boxes"] == 12
    assert {"best_possible_recall", "ambiguous", "ambiguous_across_classes", "num_positives"} <= set(found)
    assert found["box_convention"] == "modern"

    run(*given(folder), "--output", folder / "center.json", "--box-convention", "legacy")
    center = json.loads((folder / "center.json").read_text())
    assert center["num_positives"] < found["num_positives"]
    assert center["box_convention"] == "legacy"


def test_suggested_config_builds_and_is_relative(folder, capsys):
    """The rectangles have sides of 12 to 39 pixels; shrunk to 16 pixels, the images' boxes pass between locations."""
    run(*given(folder), "--suggest", folder / "new" / "mine.yaml", "--output", folder / "out.json",
        "INPUT.MIN_SIZE_TEST", "16", "MODEL.FCOS.NUM_CONVS", "2")  # fmt: skip
    out = capsys.readouterr().out
    assert "suggested" in out
    text = (folder / "new" / "mine.yaml").read_text()
    written = yaml.safe_load(text)
    assert written["_BASE_"] == "../tiny.yaml"
    assert written["MODEL"]["FCOS"]["NUM_CONVS"] == 2  # the override stays
    found = json.loads((folder / "out.json").read_text())
    assert found["suggested"]["unlearned"] < found["unlearned"]
    assert f"{found['unlearned']:.2f} before, {found['suggested']['unlearned']:.2f} now" in text

    model = build_model(read_config(folder / "new" / "mine.yaml"))
    assert model.core.assigner.ranges[0][1] == written["MODEL"]["FCOS"]["SIZES_OF_INTEREST"][0]


def test_tiles_are_advised_where_boxes_stay_unlearned(folder, capsys):
    """The pictures have a shorter side of 64 or 80 pixels."""
    for min_size, advises in ((2, True), (256, False)):
        run(*given(folder), "--suggest", folder / "mine.yaml", "INPUT.MIN_SIZE_TEST", min_size)
        assert ("Cut large images into tiles" in capsys.readouterr().out) == advises


def test_nothing_to_suggest(folder, capsys):
    """No box overlaps another, and all are large."""
    _, json_file = write_coco_folder(folder / "one", boxes_per_image=1)
    run(*given(folder), "--annotations", json_file, "--suggest", folder / "mine.yaml", "INPUT.MIN_SIZE_TEST", "256")
    assert "Nothing that was tried is worth a change" in capsys.readouterr().out
    assert not (folder / "mine.yaml").exists()


def test_a_suggestion_does_not_overwrite_the_config_that_it_builds_on(folder):
    before = (folder / "tiny.yaml").read_text()
    with pytest.raises(UserError, match="name another file"):
        run(*given(folder), "--suggest", folder / "tiny.yaml")
    assert (folder / "tiny.yaml").read_text() == before


def test_mistakes(folder):
    with pytest.raises(UserError, match=r"no config file nowhere\.yaml"):
        run(*given(folder), "--config-file", "nowhere.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        run(*given(folder), "--annotations", folder / "nowhere.json")
    with pytest.raises(UserError, match="cannot be written"):
        run(*given(folder), "--output", folder / "tiny.yaml" / "out.json")
