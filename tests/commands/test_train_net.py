"""`fcos-rpn train` from a YAML and from a LazyConfig, within this process where nothing speaks for one of its own."""

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

TOOL = Path(__file__).parents[2] / "tools" / "train_net.py"
FRONTS = ["yaml", "py"]
KEYS = {
    "output": ("OUTPUT_DIR", "train.output_dir"),
    "weights": ("MODEL.WEIGHTS", "train.init_checkpoint"),
    "max_iter": ("SOLVER.MAX_ITER", "train.max_iter"),
    "rate": ("SOLVER.BASE_LR", "optimizer.lr"),
    "device": ("MODEL.DEVICE", "train.device"),
    "seed": ("SEED", "train.seed"),
    "misspelt": ("SOLVER.MAX_ITRE", "train.max_itre"),
}
"""Settings of these tests -> their keys in a YAML and in a LazyConfig."""

LAZY = """
from detectron2.config import LazyCall as L

from fcos_rpn import TorchvisionBackbone
from fcos_rpn.model_zoo import get_config

_base = get_config("lazy/fcos_R_50_FPN_1x.py")
model, dataloader, optimizer, lr_multiplier, train = (
    _base[group] for group in ("model", "dataloader", "optimizer", "lr_multiplier", "train")
)
model.backbone.bottom_up = L(TorchvisionBackbone)(name="shufflenet_v2_x0_5")
model.backbone.out_channels = 64
model.core.head.num_convs = 1
model.postprocessor.score_thresh = 0.0  # so that it detects untrained
for _loader in (dataloader.train, dataloader.test):
    _loader.mapper.augmentations[0].short_edge_length = 64
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 0
lr_multiplier.warmup_length = 0
train.init_checkpoint = ""
train.max_iter = 2
"""


def options(front: str, **settings: object) -> list[str]:
    """The settings of `KEYS` as the command line wants them."""
    pairs = [(KEYS[name][FRONTS.index(front)], str(value)) for name, value in settings.items()]
    return [f"{key}={value}" for key, value in pairs] if front == "py" else [text for pair in pairs for text in pair]


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
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=600)
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
    """Holds a config of each front, and a data set."""
    folder = tmp_path_factory.mktemp("train_net")
    write_coco_folder(folder / "coco")
    cfg = tiny_config()
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.0
    (folder / "tiny.yaml").write_text(cfg.dump())
    (folder / "tiny.py").write_text(LAZY)
    return folder


@pytest.fixture
def arguments(folder, tmp_path) -> Callable[..., list[str]]:
    def arguments(*flags: str, front: str = "yaml", json_file: Path | None = None, **settings: object) -> list[str]:
        """Of a training on the data set; the output goes to the test's own folder."""
        data = [str(folder / "coco" / "images"), str(json_file or folder / "coco" / "instances.json")]
        config = ["--config-file", str(folder / f"tiny.{front}"), "--num-gpus", "0"]
        settings = {"output": tmp_path / "output", **settings}
        return [*config, "--train", *data, "--test", *data, *flags, *options(front, **settings)]

    return arguments


@pytest.mark.parametrize("front", FRONTS)
def test_training_evaluation_and_resuming(arguments, run, tmp_path, front):
    first, second = tmp_path / "output", tmp_path / "second"
    more = ("--train", *write_coco_folder(tmp_path / "more", num_images=3))
    trained = run(*arguments(*more, front=front, seed=1))
    assert trained.status == 0, trained.message
    assert "Serializing 7 elements" in trained.output  # of both folders
    assert (first / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(first / "model_final.pth", weights_only=True)["class_names"] == ["red", "blue"]
    (results,) = json.loads((first / "results.json").read_text()).values()
    assert {"AP", "AP50", "AP75"} <= results["bbox"].keys()
    assert {"AR@100", "AR@1000", "ARs@1000"} <= results["box_proposals"].keys()
    _, header, _, *rows = trained.output.partition("Results on images_instances, in percent:")[2].splitlines()
    assert {"bbox", "box_proposals"} <= {*header.split()}
    assert {"AP", "AR@100", "AR@1000"} <= {row.split(" ")[0] for row in rows}

    # With the config that the training saved, which knows the folders and their two classes.
    weights = options(front, weights=first / "model_final.pth", output=second)
    evaluated = run("--config-file", str(first / "config.yaml"), "--num-gpus", "0", "--eval-only", *weights)
    assert evaluated.status == 0, evaluated.message
    assert json.loads((second / "results.json").read_text()) == json.loads((first / "results.json").read_text())
    assert not list(second.glob("*.pth"))

    resumed = run(*arguments("--resume", front=front, max_iter=3))
    assert resumed.status == 0, resumed.message
    assert "Training from iteration 2" in resumed.output
    assert torch.load(first / "model_final.pth", weights_only=True)["iteration"] == 2


def test_a_training_resumed_from_a_lazy_config_ends_with_the_weights_of_one_that_nothing_disturbed(
    arguments, run, tmp_path
):
    """Of a seed that is drawn, and with mirrored images: order, augmentation and seed come from the checkpoint."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    settings = {"front": "py", "max_iter": 4}
    assert run(*arguments(**settings, output=whole), "train.checkpointer.period=2").status == 0
    resumed.mkdir()
    shutil.copy(whole / "model_0000001.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    outcome = run(*arguments("--resume", **settings, output=resumed))
    assert "Training from iteration 2" in outcome.output
    expected, found = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, resumed))
    for key, value in expected["model"].items():
        assert torch.equal(found["model"][key], value), key


@pytest.mark.parametrize("front", FRONTS)
def test_interrupted_training_says_how_to_go_on(arguments, run, monkeypatch, front):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fcos_rpn.engine.trainer.Trainer.run_step", interrupt)
    outcome = run(*arguments(front=front))
    assert outcome.status == 1
    assert "--resume" in outcome.message


def test_two_processes_on_the_cpu_train_and_evaluate(arguments, folder, tmp_path):
    """2 images, 6 iterations and a rate of .01 for one process are 4, 3 and .02 for two."""
    # Every other image is without boxes, so that often only one of the processes has any.
    content = json.loads((folder / "coco" / "instances.json").read_text())
    content["annotations"] = [annotation for annotation in content["annotations"] if annotation["image_id"] % 2]
    json_file = tmp_path / "half_empty.json"
    json_file.write_text(json.dumps(content))
    flags = ("--num-gpus", "2", "--dist-url", "auto")
    settings = arguments(*flags, json_file=json_file, device="cpu", max_iter=6, rate=0.01)
    outcome = run_alone(str(TOOL), *settings, "SOLVER.REFERENCE_WORLD_SIZE", "1")

    assert outcome.status == 0, outcome.message
    assert "Traceback" not in outcome.output + outcome.message
    assert "batch_size=4, learning_rate=0.02, max_iter=3" in outcome.output
    output = tmp_path / "output"
    assert (output / "log.txt.rank1").exists()
    assert torch.load(output / "model_final.pth")["iteration"] == 2
    (results,) = json.loads((output / "results.json").read_text()).values()
    assert results.keys() >= {"bbox", "box_proposals"}


def assert_error(outcome: Outcome, *parts: object) -> None:
    assert outcome.status == 1
    assert outcome.message.startswith("error: ")
    for part in parts:
        assert str(part) in outcome.message


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(
    ("flags", "settings", "expected"),
    [
        ([], {"misspelt": 3}, ["no config key", "misspelt"]),
        ([], {"weights": "gone.pth"}, ["gone.pth"]),
        (["--eval-only"], {}, ["evaluation needs weights"]),
        ([], {"rate": 1e30, "max_iter": 4}, ["diverged at iteration 1", "rate"]),
        (["--num-gpus", "1"], {"device": "cuda"}, ["this machine shows 0"]),
    ],
    ids=["unknown key", "missing weights", "no weights", "divergence", "missing GPU"],
)
def test_mistakes_on_the_command_line(arguments, run, tmp_path, monkeypatch, front, flags, settings, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    expected = [KEYS[part][FRONTS.index(front)] if part in settings else part for part in expected]
    assert_error(run(*arguments(*flags, front=front, **settings)), *expected)
    assert not (tmp_path / "output" / "results.json").exists()


def test_mistakes_in_the_annotations(arguments, folder, run, tmp_path):
    assert_error(run(*arguments(json_file=tmp_path / "gone.json")), tmp_path / "gone.json")
    content = json.loads((folder / "coco" / "instances.json").read_text())
    content["annotations"][0]["category_id"] = 77
    spoilt = tmp_path / "spoilt.json"
    spoilt.write_text(json.dumps(content))
    assert_error(run(*arguments(json_file=spoilt)), spoilt, "annotation 1 of image 1", "category_id 77 is not")


def test_an_unreadable_image_that_a_worker_loads(folder, run, tmp_path):
    images, json_file = write_coco_folder(tmp_path / "coco", num_images=1)
    picture = Path(images, "1.png")
    picture.write_bytes(picture.read_bytes()[:300])
    outcome = run(
        *("--config-file", str(folder / "tiny.yaml"), "--num-gpus", "0", "--train", images, json_file),
        *("OUTPUT_DIR", str(tmp_path / "output"), "DATALOADER.NUM_WORKERS", "1"),
    )
    assert_error(outcome, f"{picture} (image 1)", "not a readable picture")
    assert "Traceback" not in (tmp_path / "output" / "log.txt").read_text()


def test_weights_for_other_classes_need_the_flag(arguments, run, tmp_path):
    cfg = tiny_config()
    cfg.MODEL.FCOS.NUM_CLASSES = 7
    torch.save(build_model(cfg).state_dict(), tmp_path / "other.pth")
    layer = "core.head.cls_logits.bias: (7,) in the file, (2,) in the model"
    assert_error(run(*arguments(weights=tmp_path / "other.pth")), tmp_path / "other.pth", layer, "--reset-class-layers")
    outcome = run(*arguments("--reset-class-layers", weights=tmp_path / "other.pth"))
    assert outcome.status == 0, outcome.message
    assert layer in outcome.output


def test_missing_detectron2():
    code = f"""
import runpy, sys
sys.modules["detectron2"] = None  # importing it fails
runpy.run_path({str(TOOL)!r}, run_name="__main__")
"""
    outcome = run_alone("-c", code)
    assert_error(outcome, "detectron2", "pip install")
    assert "Traceback" not in outcome.message
