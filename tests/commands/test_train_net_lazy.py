"""`fcos-rpn train` with a LazyConfig, within this process."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from fcos_rpn.commands import train_net as tool
from tests.tiny import write_coco_folder

TINY = """
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
train.max_iter = 2
"""


class Outcome(NamedTuple):
    """How a run ended."""

    status: int
    output: str
    message: str
    """What `sys.exit` puts on stderr."""


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lazyconfig")
    write_coco_folder(folder / "coco")
    (folder / "tiny.py").write_text(TINY)
    return folder


@pytest.fixture
def run(folder, detectron2_restored, monkeypatch, capfd) -> Run:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))  # which the tool changes

    def run(*arguments: str, config: Path = folder / "tiny.py", with_data: bool = True) -> Outcome:
        data = [str(folder / "coco" / "images"), str(folder / "coco" / "instances.json")] if with_data else []
        flags = ["--train", *data, "--test", *data] if with_data else []
        code: Any = 0
        try:
            tool.main(["--config-file", str(config), "--num-gpus", "0", *flags, *arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        message = code if isinstance(code, str) else ""
        assert "Traceback" not in captured.out + captured.err + message
        return Outcome(1 if message else int(code or 0), captured.out, message)

    return run


def test_training_evaluation_and_resuming(run, tmp_path):
    first = tmp_path / "first"
    trained = run("train.init_checkpoint=", f"train.output_dir={first}", "train.seed=1")
    assert trained.status == 0, trained.message
    assert torch.load(first / "model_final.pth", weights_only=True)["class_names"] == ["red", "blue"]
    (results,) = json.loads((first / "results.json").read_text()).values()
    assert {"AP", "AP50", "AP75"} <= results["bbox"].keys()
    assert {"AR@100", "AR@1000"} <= results["box_proposals"].keys()
    assert "Results on images_instances, in percent:" in trained.output

    # With the config that the training saved, which knows the folders and their two classes.
    second = tmp_path / "second"
    options = [f"train.init_checkpoint={first / 'model_final.pth'}", f"train.output_dir={second}"]
    evaluated = run("--eval-only", *options, config=first / "config.yaml", with_data=False)
    assert evaluated.status == 0, evaluated.message
    assert json.loads((second / "results.json").read_text()) == json.loads((first / "results.json").read_text())
    assert not list(second.glob("*.pth"))

    third = tmp_path / "third"
    shutil.copytree(first, third)
    resumed = run("--resume", f"train.output_dir={third}", "train.max_iter=3")
    assert resumed.status == 0, resumed.message
    assert "Training from iteration 2" in resumed.output
    assert torch.load(third / "model_final.pth", weights_only=True)["iteration"] == 2


def test_a_resumed_training_ends_with_the_weights_of_one_that_nothing_disturbed(run, tmp_path):
    """Of a seed that is drawn, and with mirrored images: order, augmentation and seed come from the checkpoint."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = ("train.init_checkpoint=", "train.max_iter=4", "train.checkpointer.period=2")
    assert run(*options, f"train.output_dir={whole}").status == 0
    resumed.mkdir()
    shutil.copy(whole / "model_0000001.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    outcome = run("--resume", *options, f"train.output_dir={resumed}")
    assert "Training from iteration 2" in outcome.output
    expected, found = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, resumed))
    for key, value in expected["model"].items():
        assert torch.equal(found["model"][key], value), key


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train.max_itre=3"], ["no config key train.max_itre", "train.max_iter"]),
        (["train.init_checkpoint=gone.pth"], ["gone.pth"]),
        (["--eval-only", "train.init_checkpoint="], ["evaluation needs weights"]),
        (
            ["train.init_checkpoint=", "optimizer.lr=1e30", "train.max_iter=4", "lr_multiplier.warmup_length=0"],
            ["diverged at iteration 1", "optimizer.lr"],
        ),
        (["train.device=cuda", "--num-gpus", "1"], ["this machine shows 0"]),
    ],
    ids=["unknown key", "missing weights", "no weights", "divergence", "missing GPU"],
)
def test_mistakes(run, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    flags = [argument for argument in arguments if argument.startswith("--") or argument == "1"]
    overrides = [argument for argument in arguments if argument not in flags]
    outcome = run(*flags, *overrides, f"train.output_dir={tmp_path}")
    assert outcome.status == 1
    assert outcome.message.startswith("error: ")
    for part in parts:
        assert part in outcome.message
    assert not (tmp_path / "results.json").exists()


def test_interrupted_training_says_how_to_go_on(run, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tool.lazy, "build_trainer", interrupt)
    outcome = run(f"train.output_dir={tmp_path}")
    assert outcome.status == 1
    assert "--resume" in outcome.message
