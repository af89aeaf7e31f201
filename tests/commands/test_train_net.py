"""tools/train_net.py as a user runs it: in processes of its own where that matters, else within this one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from detectron2.modeling import build_model

from fcos_rpn.commands import train_net
from tests.tiny import tiny_config, write_coco_folder

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "train_net.py"


class Outcome(NamedTuple):
    """How a run ended."""

    status: int
    output: str
    """All of stdout."""
    message: str
    """All of stderr, or within this process what `sys.exit` puts there."""


Run = Callable[..., Outcome]


def run_alone(*arguments: str) -> Outcome:
    """In a process of its own."""
    done = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=600)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run(detectron2_restored: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Within this process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))  # which the tool changes

    def run(*arguments: str) -> Outcome:
        code: Any = 0
        try:
            train_net.main(arguments)
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        message = code if isinstance(code, str) else ""
        assert "Traceback" not in captured.out + captured.err + message
        return Outcome(1 if message else int(code or 0), captured.out, message)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds a config for each architecture, and a data set."""
    folder = tmp_path_factory.mktemp("train_net")
    write_coco_folder(folder / "coco")
    for architecture in ("FCOS", "GeneralizedRCNNWithProposals"):
        (folder / f"{architecture}.yaml").write_text(tiny_config(architecture).dump())
    return folder


@pytest.fixture
def arguments(folder, tmp_path) -> Callable[..., list[str]]:
    def arguments(*overrides: str, json_file: Path | None = None, flags: tuple[str, ...] = ()) -> list[str]:
        """Of a training on the data set; the output goes to the test's own folder."""
        data = [str(folder / "coco" / "images"), str(json_file or folder / "coco" / "instances.json")]
        config = ["--config-file", str(folder / "FCOS.yaml"), "--num-gpus", "0"]
        return [*config, "--train", *data, "--test", *data, *flags, "OUTPUT_DIR", str(tmp_path / "output"), *overrides]

    return arguments


@pytest.fixture(scope="module")
def trained(folder) -> tuple[Outcome, Path]:
    """A training in a process of its own, and its output."""
    data = [str(folder / "coco" / "images"), str(folder / "coco" / "instances.json")]
    config = ["--config-file", str(folder / "FCOS.yaml"), "--num-gpus", "0"]
    output = folder / "output"
    return run_alone(*config, "--train", *data, "--test", *data, "OUTPUT_DIR", str(output), "SEED", "1"), output


def test_training_on_the_cpu_ends_with_weights_and_a_table(trained):
    outcome, output = trained
    assert outcome.status == 0, outcome.message
    assert "Traceback" not in outcome.output + outcome.message
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    (results,) = json.loads((output / "results.json").read_text()).values()
    assert {"AP", "AP50", "AP75"} <= results["bbox"].keys()
    assert {"AR@100", "AR@1000", "ARs@1000"} <= results["box_proposals"].keys()
    _, header, _, *rows = outcome.output.partition("Results on images_instances, in percent:")[2].splitlines()
    assert {"bbox", "box_proposals"} <= {*header.split()}
    assert {"AP", "AR@100", "AR@1000"} <= {row.split(" ")[0] for row in rows}


def test_evaluation_alone_with_the_config_that_the_training_saved(trained, run, tmp_path):
    _, output = trained
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)]
    outcome = run("--config-file", str(output / "config.yaml"), "--num-gpus", "0", "--eval-only", *weights)
    assert outcome.status == 0, outcome.message
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads((output / "results.json").read_text())
    assert not list(tmp_path.glob("*.pth"))


def test_resumed_training_goes_on(trained, arguments, run, tmp_path):
    shutil.copytree(trained[1], tmp_path / "output")
    outcome = run(*arguments("SOLVER.MAX_ITER", "3", flags=("--resume",)))
    assert outcome.status == 0, outcome.message
    assert "Training from iteration 2" in outcome.output
    assert torch.load(tmp_path / "output" / "model_final.pth")["iteration"] == 2


def test_interrupted_training_says_how_to_go_on(arguments, run, monkeypatch):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fcos_rpn.engine.trainer.Trainer.run_step", interrupt)
    outcome = run(*arguments())
    assert outcome.status == 1
    assert "--resume" in outcome.message


def test_two_processes_on_the_cpu_train_and_evaluate(arguments, folder, tmp_path):
    # Every other image is without boxes, so that often only one of the processes has any.
    content = json.loads((folder / "coco" / "instances.json").read_text())
    content["annotations"] = [annotation for annotation in content["annotations"] if annotation["image_id"] % 2]
    json_file = tmp_path / "half_empty.json"
    json_file.write_text(json.dumps(content))
    flags = ("--num-gpus", "2", "--dist-url", "auto")
    outcome = run_alone(*arguments("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "3", json_file=json_file, flags=flags))

    assert outcome.status == 0, outcome.message
    assert "Traceback" not in outcome.output + outcome.message
    output = tmp_path / "output"
    assert (output / "log.txt.rank1").exists()
    assert torch.load(output / "model_final.pth")["iteration"] == 2
    (results,) = json.loads((output / "results.json").read_text()).values()
    assert results.keys() >= {"bbox", "box_proposals"}


def test_several_folders_train_together(arguments, folder, run, tmp_path):
    write_coco_folder(tmp_path / "more", num_images=3)
    more = ("--train", str(tmp_path / "more" / "images"), str(tmp_path / "more" / "instances.json"))
    outcome = run(*arguments("SOLVER.MAX_ITER", "1", flags=more))
    assert outcome.status == 0, outcome.message
    assert "Serializing 7 elements" in outcome.output


def test_repairs_of_the_annotations_are_counted_and_training_goes_on(arguments, folder, run, tmp_path):
    content = json.loads((folder / "coco" / "instances.json").read_text())
    first, second, third, *_ = content["annotations"]
    first["bbox"][2] = 0
    second["bbox"] = [-50, -50, 20, 20]
    third["bbox"] = [-5, -5, 20, 20]
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    (tmp_path / "rough.json").write_text(json.dumps(content))
    outcome = run(*arguments(json_file=tmp_path / "rough.json"))
    assert outcome.status == 0, outcome.message
    num_left = len(content["annotations"]) - 2
    for repair in (
        "boxes of zero size dropped: 1",
        "boxes wholly outside their image dropped: 1",
        "boxes partly outside their image clipped: 1",
        f"missing areas filled in (width * height): {num_left}",
        f"missing iscrowd filled in (0): {num_left}",
    ):
        assert repair in outcome.output


def assert_error(outcome: Outcome, *parts: object) -> None:
    assert outcome.status == 1
    assert outcome.message.startswith("error: ")
    for part in parts:
        assert str(part) in outcome.message


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["MODEL.FCOS.NUM_CLASES", "3"], ["no config key MODEL.FCOS.NUM_CLASES", "MODEL.FCOS.NUM_CLASSES"]),
        (["MODEL.FCOS.CENTER_SAMPLING_RADIUS", "1"], ["MODEL.FCOS.CENTER_SAMPLING_RADIUS", "1.0, not 1"]),
        (["SEED"], ["KEY VALUE", "SEED"]),
        (["SOLVER.AMP.ENABLED", "True"], ["SOLVER.AMP.PRECISION"]),
        (["MODEL.WEIGHTS", "nothing.pth"], ["MODEL.WEIGHTS", "nothing.pth"]),
        (["SOLVER.BASE_LR", "1e30", "SOLVER.MAX_ITER", "4"], ["diverged at iteration 1", "SOLVER.BASE_LR"]),
    ],
    ids=["unknown key", "whole number", "no pair", "mixed precision", "no weights", "divergence"],
)
def test_mistakes_on_the_command_line(arguments, run, overrides, expected):
    assert_error(run(*arguments(*overrides)), *expected)


def test_unknown_key_in_the_config_file(run, tmp_path):
    (tmp_path / "mine.yaml").write_text("VERSION: 2\nMODEL:\n  FCSO:\n    NORM: GN\n")
    outcome = run("--config-file", str(tmp_path / "mine.yaml"), "--num-gpus", "0")
    assert_error(outcome, tmp_path / "mine.yaml", "MODEL.FCSO.NORM", "MODEL.FCOS.NORM")


def test_missing_config_file(run, tmp_path):
    assert_error(run("--config-file", str(tmp_path / "mine.yaml"), "--num-gpus", "0"), tmp_path / "mine.yaml")


def test_missing_gpu(folder, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    outcome = run("--config-file", str(folder / "FCOS.yaml"), "--num-gpus", "1", "MODEL.DEVICE", "cuda")
    assert_error(outcome, "MODEL.DEVICE is cuda", "--num-gpus 0")


def test_missing_json(arguments, run, tmp_path):
    assert_error(run(*arguments(json_file=tmp_path / "gone.json")), tmp_path / "gone.json")


def set_width(width: float) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0]["bbox"].__setitem__(2, width)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (set_width(float("nan")), ["annotation 1 (image 1)", "nan"]),
        (set_width(float("inf")), ["annotation 1 (image 1)", "inf"]),
        (set_width(-3), ["annotation 1 (image 1)", "negative"]),
        (lambda content: content["annotations"][0].update(category_id=77), ["annotation 1 (image 1)", "id 77 is not"]),
        (lambda content: content["images"][0].update(file_name="gone.png"), ["'gone.png' (image 1)"]),
    ],
    ids=["nan", "infinite", "negative", "unknown category", "missing image"],
)
def test_mistakes_in_the_annotations(arguments, folder, run, tmp_path, spoil, expected):
    content = json.loads((folder / "coco" / "instances.json").read_text())
    spoil(content)
    (tmp_path / "spoilt.json").write_text(json.dumps(content))
    assert_error(run(*arguments(json_file=tmp_path / "spoilt.json")), tmp_path / "spoilt.json", *expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image(run, tmp_path, num_workers):
    images, json_file = write_coco_folder(tmp_path / "coco", num_images=1)
    picture = Path(images, "1.png")
    picture.write_bytes(picture.read_bytes()[:300])
    (tmp_path / "FCOS.yaml").write_text(tiny_config().dump())
    outcome = run(
        *("--config-file", str(tmp_path / "FCOS.yaml"), "--num-gpus", "0", "--train", images, json_file),
        *("OUTPUT_DIR", str(tmp_path / "output"), "DATALOADER.NUM_WORKERS", str(num_workers)),
    )
    assert_error(outcome, f"{picture} (image 1)", "not a readable picture")
    assert "Traceback" not in (tmp_path / "output" / "log.txt").read_text()


def test_evaluation_without_weights(arguments, run):
    assert_error(run(*arguments(flags=("--eval-only",))), "MODEL.WEIGHTS")


def save_weights(path: Path, **fcos: Any) -> list[str]:
    cfg = tiny_config()
    cfg.MODEL.FCOS.update(fcos)
    torch.save(build_model(cfg).state_dict(), path)
    return ["MODEL.WEIGHTS", str(path)]


@pytest.mark.parametrize("flags", [(), ("--reset-class-layers",), ("--eval-only",)])
def test_weights_of_other_shapes(arguments, run, tmp_path, flags):
    weights = save_weights(tmp_path / "other.pth", IN_FEATURES=["p3", "p4", "p5", "p6"])
    outcome = run(*arguments(*weights, flags=flags))
    assert_error(outcome, tmp_path / "other.pth", "core.head.scales: (4,) in the file, (5,) in the model")


def test_weights_for_other_classes_need_the_flag(arguments, run, tmp_path):
    weights = save_weights(tmp_path / "other.pth", NUM_CLASSES=7)
    layer = "core.head.cls_logits.bias: (7,) in the file, (2,) in the model"
    assert_error(run(*arguments(*weights)), tmp_path / "other.pth", layer, "--reset-class-layers")
    assert_error(run(*arguments(*weights, flags=("--eval-only",))), tmp_path / "other.pth", layer)
    outcome = run(*arguments(*weights, flags=("--reset-class-layers",)))
    assert outcome.status == 0, outcome.message
    assert layer in outcome.output


def test_missing_detectron2():
    code = f"""
import runpy, sys
sys.modules["detectron2"] = None  # importing it fails
runpy.run_path({str(TOOL)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert_error(Outcome(done.returncode, done.stdout, done.stderr), "detectron2", "pip install")
    assert "Traceback" not in done.stderr
