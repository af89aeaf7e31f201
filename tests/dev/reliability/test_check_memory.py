"""The command in this process; it starts a stand-in for a training that takes no time."""

import json
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from dev.reliability import check_memory as tool
from fcos_rpn import UserError
from fcos_rpn.config import read_config
from fcos_rpn.model_zoo import find_config

PROCESS = """
import json, os, sys, time
output = sys.argv[-1]
os.makedirs(output, exist_ok=True)
print("Training from iteration 0 to 10", flush=True)
worker = os.fork()
if worker == 0:
    time.sleep(60)
    os._exit(0)
kept = []
for count in range(1, 41):
    if os.waitpid(worker, os.WNOHANG)[0]:
        print(END, flush=True)
        sys.exit(1)
    kept.append(b"x" * (GROWTH << 20))
    time.sleep(0.05)
    if "--eval-only" in sys.argv:
        print(f"Inference done {count}/40. Dataloading: 0.1 s", flush=True)
    else:
        with open(f"{output}/metrics.json", "a") as file:
            print(json.dumps({"iteration": count - 1}), file=file)
        open(f"{output}/last_checkpoint", "w").close()
os.kill(worker, 9)
"""

ONE_MESSAGE = "'a line\\nerror: a worker has died'"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "SECONDS_TO_DIE", 3)

    def run(*arguments: str, growth: int = 0, end: str = ONE_MESSAGE) -> tuple[int, str, Path]:
        script, output = tmp_path / "script.py", tmp_path / "output"
        script.write_text(PROCESS.replace("GROWTH", str(growth)).replace("END", end))
        monkeypatch.setattr(tool, "prepare", lambda _: output.mkdir() or [sys.executable, str(script)])
        status = tool.main(["--period", "0.02", "--output", str(output), *arguments])
        return status, capsys.readouterr().out, output

    return run


def test_memory_that_stays_is_no_failure(run):
    status, printed, output = run("--minutes", "0.03", "--images", "40", "--most", "50.0")
    assert status == 0
    assert printed.endswith("A worker is killed: a worker has died\n")
    written = json.loads((output / "memory.json").read_text())
    assert abs(written["training"]["slope"]) < 50
    assert written["fields_of_samples"] == ["seconds", "done", "main", "workers"]
    assert max(main for _, _, main, _ in written["evaluation"]["samples"]) > 1  # the first may come before any memory
    assert max(workers for _, _, _, workers in written["evaluation"]["samples"]) > 0


@pytest.mark.parametrize("limits", [["--images", "0"], ["--images", "40", "--most", "5000"]])
def test_memory_that_grows_is_a_failure(run, limits):
    """In a training, or in an evaluation."""
    status, _, output = run("--minutes", "0.03", *limits, growth=1)
    assert status == 1
    growths = list(json.loads((output / "memory.json").read_text()).values())[2:]
    assert [growth["slope"] for growth in growths] == pytest.approx([1000] * len(growths), rel=0.3)  # 1 MiB each


@pytest.mark.parametrize("end", ["'Traceback (most recent call last):\\nerror: it'", "'a line'", "time.sleep(30)"])
def test_no_message_or_a_traceback_or_a_hang_is_a_failure(run, end):
    status, printed, _ = run("--minutes", "0.01", "--images", "0", end=end)
    assert status == 1
    assert "A worker is killed: no message, or more than one" in printed


def test_files_that_are_mapped_do_not_count(tmp_path):
    # Memory comes from the system itself: the C library may hand out what an earlier test has given back to it.
    size = 64 << 20
    (tmp_path / "file").write_bytes(bytes(size))
    before = tool.memory_of(os.getpid())
    mapped = np.memmap(tmp_path / "file", mode="r")
    assert mapped.sum() == 0
    assert abs(tool.memory_of(os.getpid()) - before) < 16
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(held, dtype=np.uint8)[:] = 1
    assert tool.memory_of(os.getpid()) - before == pytest.approx(64, abs=16)
    assert len(held) == len(mapped)


def test_a_slope_worked_out_by_hand():
    # Warm-up until 30 of 90, and then 2 MiB per 10; the workers shrink by 1. At 90 the work is over.
    counts = [0, 10, 20, 30, 50, 70, 90, 90]
    main = [5, 500, 50, 100, 104, 108, 112, 999]
    workers = [0, 0, 0, 30, 28, 26, 24, 0]
    samples = [tool.Sample(0.0, *of_one) for of_one in zip(counts, main, workers, strict=True)]
    assert tool.slope_of(samples) == pytest.approx(100)
    with pytest.raises(UserError, match="too few samples to measure growth"):
        tool.slope_of(samples[:3])


def test_the_command_is_one_that_train_net_understands(tmp_path):
    args = tool.build_argument_parser().parse_args(["--images", "4", "--output", str(tmp_path / "output")])
    words = tool.prepare(args)
    train, test = words.index("--train"), words.index("--test")
    assert [len(list(Path(words[index + 1]).iterdir())) for index in (train, test)] == [tool.NUM_TRAINING_PICTURES, 4]
    cfg = read_config(find_config(tool.CONFIG), words[test + 3 :])
    assert (cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.MODEL.FPN.OUT_CHANNELS) == (10_000_000, 0, 64)
