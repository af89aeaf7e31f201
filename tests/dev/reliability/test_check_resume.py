"""The command in this process; it starts a stand-in for a training that takes no time."""

import contextlib
import random
import sys
from pathlib import Path

import pytest
import torch

from dev.reliability import check_resume as tool
from fcos_rpn import UserError
from fcos_rpn.config import read_config
from fcos_rpn.model_zoo import find_config

TRAINING = """
import os, sys, time
output = sys.argv[-1]
workers = sys.argv[-3]
os.makedirs(output, exist_ok=True)
for name in os.listdir(output):
    if name.endswith(".partial"):
        os.remove(f"{output}/{name}")
count = int(open(f"{output}/last_checkpoint").read()) if os.path.exists(f"{output}/last_checkpoint") else 0
print("Training from iteration", count, "to 8", flush=True)
for count in range(count, 8):
    time.sleep(0.02)
    if count == 5 and FAIL:
        sys.exit("out of luck")
    with open(f"{output}/model.partial", "w") as file:
        time.sleep(0.02)
        file.write(str(count + 1))
    os.replace(f"{output}/model.partial", f"{output}/last_checkpoint")
open(f"{output}/model_final.pth", "w").write("workers " + workers if DIFFER else "8")
"""


def command(*, fail: bool = False, differ: bool = False) -> list[str]:
    script = TRAINING.replace("FAIL", str(fail)).replace("DIFFER", str(differ))
    return [sys.executable, "-S", "-E", "-c", script]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def run(*arguments: str, **behaviour: bool) -> tuple[int, str]:
        monkeypatch.setattr(tool, "prepare", lambda _: (tmp_path / "output").mkdir() or command(**behaviour))
        monkeypatch.setattr(
            tool, "differing", lambda *paths: ["weight"] if len({path.read_text() for path in paths}) > 1 else []
        )
        status = tool.main(["--output", str(tmp_path / "output"), *arguments])
        return status, capsys.readouterr().out

    return run


def test_every_kill_is_in_the_table_and_the_verdict_below(run, tmp_path):
    status, printed = run("--kills", "5")
    assert status == 0
    _, _, table = printed.partition("\n\n")
    assert [line.split()[0] for line in table.splitlines()[2:7]] == ["1", "2", "3", "4", "5"]
    assert "5 kills, " in printed
    assert "bit-identical" in printed
    assert [path.name for path in (tmp_path / "output").iterdir() if path.is_dir()] == ["undisturbed"]


def test_a_difference_is_named_and_kept(run, tmp_path):
    status, printed = run("--kills", "1", differ=True)
    assert status == 1
    assert "differs in weight" in printed
    assert "0 of 1 trainings" in printed
    assert (tmp_path / "output" / "killed_1" / "model_final.pth").exists()


def test_kills_come_at_any_moment_and_while_a_file_is_written(tmp_path):
    kills = []
    chance = random.Random(0)
    for number in range(4):
        kills += tool.kill_and_resume(command(), tmp_path / str(number), 0, 0.4, 3, chance)
        assert (tmp_path / str(number) / "model_final.pth").read_text() == "8"
    assert {kill.aim for kill in kills} == {"any moment", "while writing"}
    assert {kill.half_written for kill in kills} >= {"model.partial"}
    assert any(kill.started_at > 0 for kill in kills)


def test_a_training_that_fails_ends_the_check(run):
    with pytest.raises(UserError, match=r"(?s)undisturbed: the training failed:.*out of luck"):
        run("--kills", "1", fail=True)


def test_nothing_runs_on_after_an_error(tmp_path):
    with contextlib.suppress(ZeroDivisionError), tool.started(command(), tmp_path / "output", 0) as training:
        training.wait_for_first_iteration()
        raise ZeroDivisionError
    assert training.process.returncode == -9


def test_the_tiny_training_has_data_and_settings(tmp_path):
    args = tool.build_argument_parser().parse_args(["--output", str(tmp_path / "output"), "SOLVER.MAX_ITER", "7"])
    words = tool.prepare(args)
    train = words.index("--train")
    cfg = read_config(find_config(tool.CONFIG), words[train + 3 :])
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.MODEL.FPN.OUT_CHANNELS) == (1, 7, 64)
    assert len(list(Path(words[train + 1]).iterdir())) == tool.NUM_PICTURES
    with pytest.raises(UserError, match="is not empty"):
        tool.prepare(args)


def save(path: Path, **changes: object) -> Path:
    momenta = {"state": {0: {"momentum_buffer": torch.zeros(2, 3)}}, "param_groups": [{"lr": 0.5, "params": [0]}]}
    weights = {"a": torch.tensor([1.0, float("nan")]), "b": torch.zeros((), dtype=torch.int64)}
    torch.save({"model": weights, "trainer": {"optimizer": momenta}, "iteration": 3, **changes}, path)
    return path


def test_checkpoints_are_compared_by_the_bits_of_their_tensors(tmp_path):
    first = save(tmp_path / "first.pth")
    assert tool.differing(first, save(tmp_path / "other.pth", iteration=4)) == []
    assert tool.differing(first, tmp_path / "gone.pth") == ["gone.pth, which is missing"]
    other = {"a": torch.tensor([1.0, float("nan")]), "b": torch.zeros(())}
    assert tool.differing(first, save(tmp_path / "other.pth", model=other)) == ["model.b"]
    other = {"a": torch.tensor([1.0 + 2**-23, float("nan")]), "c": torch.zeros(1)}
    assert tool.differing(first, save(tmp_path / "other.pth", model=other)) == ["model.a", "model.b", "model.c"]
    momenta = {"optimizer": {"state": {0: {"momentum_buffer": torch.full((2, 3), -0.0)}}}}
    changed = ["trainer.optimizer.state.0.momentum_buffer"]
    assert tool.differing(first, save(tmp_path / "other.pth", trainer=momenta)) == changed
