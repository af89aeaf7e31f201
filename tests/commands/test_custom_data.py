"""The commands of docs/custom-data.md, one after the other, from a folder to a trained and evaluated model.

The last, export, takes longer than all others; test_export_model runs it on a smaller one.
"""

import importlib
import json
import shlex
from pathlib import Path

import pytest
import torch
import torchvision

from fcos_rpn import Predictor
from fcos_rpn.commands import COMMANDS
from tests.tiny import write_coco_folder

ROOT = Path(__file__).parents[2]
SMALL = (
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0"),
)
"""What makes the template's training take no time; a saved config has it already."""


@pytest.fixture
def folder(tmp_path, detectron2_restored, monkeypatch) -> Path:
    """The working folder of a user in a checkout, with data and ImageNet weights where the document has them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("configs").symlink_to(ROOT / "configs")
    _, annotations = write_coco_folder(tmp_path / "my_data")
    for name in ("train.json", "val.json"):
        (tmp_path / "my_data" / name).write_bytes(Path(annotations).read_bytes())
    Path("output/quickstart").mkdir(parents=True)
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), "output/quickstart/mobilenet_v2.pth")
    return tmp_path


def commands() -> list[tuple[str, list[str]]]:
    """Find the name and arguments of each command."""
    text = (ROOT / "docs" / "custom-data.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("fcos-rpn ")]
    # Other formats are no step of the way; tests/commands/test_convert_dataset.py converts them.
    return [(name, arguments) for _, name, *arguments in lines if name != "convert-dataset"]


def test_the_commands_lead_from_a_folder_to_a_trained_and_evaluated_model(folder, capsys):
    done = []
    *wanted, (last, _) = commands()
    for name, arguments in wanted:
        is_template = "configs/custom/fcos_mobilenet_v2.yaml" in arguments
        module = importlib.import_module(f"fcos_rpn.commands.{COMMANDS[name][0]}")
        module.main([*arguments, *(SMALL if is_template else ())])
        done.append(name)
    assert done == [
        *("check", "analyze", "train", "train"),
        *("demo", "analyze-detections", "visualize-assignment"),
    ]
    assert last == "export"
    assert "the same picture as train image 1" in capsys.readouterr().out  # the sets have the same images
    output = folder / "output"
    for result in ("mine/results.json", "mine_val/results.json"):
        (figures,) = json.loads((output / result).read_text()).values()
        assert {"bbox", "box_proposals"} <= figures.keys()
    for pictures in ("mine_pictures", "mine_analysis", "mine_assignment", "my_data"):
        assert list((output / pictures).rglob("*.[jp]*g"))
    assert Predictor(output / "mine/config.yaml", weights=output / "mine/model_final.pth").class_names == [
        "red",
        "blue",
    ]
