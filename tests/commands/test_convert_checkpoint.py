"""tools/convert_checkpoint.py within this process, the commands of docs/convert.md, and evaluating what it writes."""

import itertools
import json
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model

from fcos_rpn import Predictor, UserError
from fcos_rpn.commands import convert_checkpoint as tool
from fcos_rpn.commands import train_net
from tests.checkpoint.conversion.synthetic import MAKERS, adelaidet, randomized
from tests.tiny import tiny_config, write_coco_folder

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("detectron2_restored")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, in which the data set of the documentation stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    images, annotations = write_coco_folder(tmp_path / "coco", num_images=1)
    Path(images).rename("val2017")
    content = json.loads(Path(annotations).read_text())
    content["categories"] = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    Path("instances_val2017.json").write_text(json.dumps(content))
    return tmp_path


def run(*arguments: object) -> None:
    tool.main([str(argument) for argument in arguments])


def evaluate(*arguments: str) -> None:
    """On small pictures."""
    small = ("INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0")
    train_net.main([*arguments, *small])


def commands() -> list[list[str]]:
    text = (ROOT / "docs" / "convert.md").read_text().replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("fcos-rpn ")]


def test_the_commands_of_the_documentation_run(folder):
    wanted = commands()
    assert len(wanted) >= 8
    written: set[str] = set()
    for name, *arguments in wanted:
        if name == "convert":
            args = tool.build_argument_parser().parse_intermixed_args(arguments)
            args.input.parent.mkdir(parents=True, exist_ok=True)
            if args.source == "fcos_rpn" and not args.input.exists():
                Path(args.config_file).write_text(tiny_config().dump())
                torch.save({"model": build_model(tiny_config()).state_dict()}, args.input)
            elif not args.input.exists():
                torch.save(randomized(MAKERS[args.source]()), args.input)
            tool.main(arguments)
            written |= {str(args.output), str(args.write_config)}
        else:
            given = dict(itertools.pairwise(arguments))
            assert {given["--config-file"], given["MODEL.WEIGHTS"]} <= written
            evaluate(*arguments)
    assert {args[args.index("--source") + 1] for args in wanted if "--source" in args} == {*MAKERS, "fcos_rpn"}


@pytest.mark.parametrize("target", ["FCOS", "FCOSRPN"])
def test_what_is_written_can_be_evaluated(folder, capsys, target):
    torch.save({"model": randomized(adelaidet()), "iteration": 7}, "theirs.pth")
    run("theirs.pth", "new/ours.pth", "--source", "adelaidet", "--target", target, "--write-config", "new/ours.yaml")
    shown = capsys.readouterr().out
    assert "Not a weight, and left out: iteration\n" in shown
    assert "pixel_mean, pixel_std" not in shown  # each has its own reason
    assert "\n  pixel_std\n" in shown
    assert "\n  MODEL.FCOS.BBOX_ACTIVATION relu\n" in shown
    assert "MODEL.FCOS.NORM GN" not in shown  # which the weights tell
    assert ("cls_logits.bias" in shown) == (target == "FCOSRPN")

    evaluate(
        *("--config-file", "new/ours.yaml", "--num-gpus", "0", "--eval-only"),
        *("--test", "val2017", "instances_val2017.json", "OUTPUT_DIR", "output", "MODEL.WEIGHTS", "new/ours.pth"),
    )
    (results,) = json.loads(Path("output/results.json").read_text()).values()
    assert "bbox" in results or "box_proposals" in results


def test_own_config_is_the_base_of_the_new_one(folder):
    (folder / "mine").mkdir()
    Path("mine/config.yaml").write_text(tiny_config().dump())
    torch.save(build_model(tiny_config()).state_dict(), "mine/model.pth")
    run(
        *("--source", "fcos_rpn", "--config-file", "mine/config.yaml", "--target", "FCOSRPN"),
        *("--write-config", "rpn/rpn.yaml", "mine/model.pth", "rpn/rpn.pth", "MODEL.RPN.NMS_THRESH", "0.8"),
    )
    written = yaml.safe_load(Path("rpn/rpn.yaml").read_text())
    assert written["_BASE_"] == "../mine/config.yaml"
    assert written["MODEL"]["RPN"] == {"IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"], "NMS_THRESH": 0.8}
    assert written["MODEL"]["WEIGHTS"] == "rpn/rpn.pth"


def names_in(path: str) -> list[str] | None:
    return torch.load(path, weights_only=True).get("class_names")


def test_class_names_are_those_that_the_user_says(folder, capsys):
    torch.save(randomized(adelaidet()), "theirs.pth")
    run("theirs.pth", "ours.pth", "--source", "adelaidet", "--target", "FCOS")
    assert names_in("ours.pth") is None  # 80 classes are not yet COCO's
    assert "weights of FCOS, no class names\n" in capsys.readouterr().out
    named = ("--source", "adelaidet", "--target", "FCOS", "--write-config", "ours.yaml", "--dataset", "coco_2017_val")
    run("theirs.pth", "ours.pth", *named)
    coco = [category["name"] for category in COCO_CATEGORIES if category["isthing"]]
    assert names_in("ours.pth") == Predictor("ours.yaml", weights="ours.pth", device="cpu").class_names == coco


def test_class_names_of_this_package_go_with_the_class_layer(folder):
    (folder / "mine").mkdir()
    Path("mine/config.yaml").write_text(tiny_config().dump())
    weights = build_model(tiny_config()).state_dict()
    torch.save({"model": weights, "class_names": ["red", "blue"]}, "mine/model.pth")
    own = ("--source", "fcos_rpn", "--config-file", "mine/config.yaml")
    run("mine/model.pth", "same.pth", *own, "--target", "FCOS")
    assert names_in("same.pth") == ["red", "blue"]
    run("mine/model.pth", "three.pth", *own, "--target", "FCOS", "MODEL.FCOS.NUM_CLASSES", "3")
    assert names_in("three.pth") is None  # its class layer is new
    run("mine/model.pth", "rpn.pth", *own, "--target", "FCOSRPN")
    assert names_in("rpn.pth") is None


@pytest.mark.parametrize(
    ("target", "names", "message"),
    [
        ("FCOS", "cat dog", "there are 2 class names .cat, dog, ....*, but the model has 80 classes"),
        ("FCOSRPN", "cat", "FCOSRPN has one class for all objects"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path, monkeypatch, target, names, message):
    monkeypatch.chdir(tmp_path)
    torch.save(adelaidet(), "theirs.pth")
    Path("names.txt").write_text(names.replace(" ", "\n"))
    with pytest.raises(UserError, match=message):
        run("theirs.pth", "ours.pth", "--source", "adelaidet", "--target", target, "--class-names", "names.txt")
    assert not Path("ours.pth").exists()


def given(*names: str) -> tuple[str, ...]:
    return "--source", "adelaidet", "--target", "FCOS", *names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (given("theirs.pth", "ours.pkl"), r"OUT ours\.pkl: give it the ending \.pth"),
        (given("theirs.pth", "./theirs.pth"), r"theirs\.pth would be overwritten"),
        (given("nothing.pth", "ours.pth"), r"there is no file nothing\.pth"),
        (
            given("theirs.pth", "ours.pth", "MODEL.FCOS.NORMS", "GN"),
            r"theirs\.pth: command line: there is no config key",
        ),
        (given("theirs.pth", "ours.pth", "--config-file", "nothing.yaml"), r"no config file nothing\.yaml"),
        (given("theirs.pth", "theirs.pth/ours.pth"), r"theirs\.pth/ours\.pth: cannot be written"),
        (("--source", "detectron2", "--target", "FCOS", "theirs.pth", "ours.pth"), r"theirs\.pth: .* does not know"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    torch.save(adelaidet(), "theirs.pth")
    with pytest.raises(UserError, match=message):
        run(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs.pth"]


def test_mistakes_end_with_a_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *given("nothing.pth", "ours.pth")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "convert_checkpoint.py"), run_name="__main__")
    assert ended.value.code == "error: MODEL.WEIGHTS: there is no file nothing.pth"
