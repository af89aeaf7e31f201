"""The processes of tools/train_net.py: Detectron2's launcher starts them, or torchrun."""

import functools
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from fcos_rpn import UserError
from fcos_rpn.engine.launch import launch
from tests.processes import output_of, torchrun, write_output_to

WHEN_STOPPED = "go on with --resume"
MISTAKE = "a mistake in the config"


def say_who(folder: Path) -> None:
    rank, size = torch.ones(2) * (comm.get_rank() + 1), comm.get_world_size()
    torch.distributed.all_reduce(rank)  # 1 + 2
    name = f"{comm.get_rank()} {comm.get_local_rank()} of {size} {comm.get_local_size()}, sum {rank[0]:g}"
    (folder / f"{comm.get_rank()}.who").write_text(name)


def make_a_mistake(folder: Path) -> None:
    write_output_to(folder)
    raise UserError(MISTAKE)


def make_a_mistake_in_one(folder: Path) -> None:
    """The other one waits for it, and loses it."""
    write_output_to(folder)
    if comm.get_rank() == 1:
        raise UserError(MISTAKE)
    torch.distributed.all_reduce(torch.ones(1))


def interrupt(folder: Path) -> None:
    write_output_to(folder)
    raise KeyboardInterrupt


def kill_one(folder: Path) -> None:
    write_output_to(folder)
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def break_one(folder: Path) -> None:
    write_output_to(folder)
    if comm.get_rank() == 1:
        raise ZeroDivisionError("a mistake of ours")
    time.sleep(600)


Job = Callable[[Path], None]


def run(job: Job, folder: Path, *flags: str) -> None:
    def prepare(num_processes: int) -> tuple[str, Callable[[], None]]:
        (folder / "prepared").write_text(str(num_processes))
        return "cpu", functools.partial(job, folder)

    args = default_argument_parser().parse_args([*flags])
    launch(prepare, args, when_stopped=WHEN_STOPPED)


TWO = ("--num-gpus", "2", "--dist-url", "auto")


@pytest.mark.parametrize("is_torchrun", [False, True])
def test_two_processes_are_started_or_joined(forked, tmp_path, is_torchrun):
    if is_torchrun:
        torchrun(run, say_who, tmp_path, "--num-gpus", "0", num_processes=2)
    else:
        run(say_who, tmp_path, *TWO)
    assert [file.read_text() for file in sorted(tmp_path.glob("*.who"))] == ["0 0 of 2 2, sum 3", "1 1 of 2 2, sum 3"]
    assert (tmp_path / "prepared").read_text() == "2"


def be_one_of_two_agents(_: int, endpoint: str, folder: Path) -> None:
    flags = ("--num-gpus", "0")
    torchrun(run, say_who, folder, *flags, num_processes=1, num_machines=2, endpoint=endpoint, start_method="fork")


def test_two_agents_stand_for_two_machines(forked, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    torch.multiprocessing.start_processes(be_one_of_two_agents, args=(endpoint, tmp_path), nprocs=2)
    assert [file.read_text() for file in sorted(tmp_path.glob("*.who"))] == ["0 0 of 2 1, sum 3", "1 0 of 2 1, sum 3"]
    assert (tmp_path / "prepared").read_text() == "1"


SAID = [(make_a_mistake, f"error: {MISTAKE}"), (make_a_mistake_in_one, f"error: {MISTAKE}"), (interrupt, WHEN_STOPPED)]


@pytest.mark.parametrize(("job", "message"), SAID)
def test_what_concerns_all_processes_is_said_once(forked, tmp_path, capfd, job, message):
    with pytest.raises(SystemExit) as end:
        run(job, tmp_path, *TWO)
    assert end.value.code == 1
    output = output_of(tmp_path) + capfd.readouterr().err
    assert output.count(message) == 1
    assert "Traceback" not in output


@pytest.mark.parametrize(("job", "message"), SAID)
def test_torchruns_processes_say_it_once_too(forked, tmp_path, job, message):
    with pytest.raises(ChildFailedError):
        torchrun(run, job, tmp_path, "--num-gpus", "0", num_processes=2)
    assert output_of(tmp_path).count(message) == 1
    assert "Traceback" not in output_of(tmp_path)


def test_a_killed_process_is_named(forked, tmp_path, capfd):
    with pytest.raises(SystemExit) as end:
        run(kill_one, tmp_path, *TWO)
    assert end.value.code == 1
    message = capfd.readouterr().err
    assert "error: process 1 terminated with signal SIGKILL, perhaps for lack of memory" in message
    assert "--resume" in message


def test_a_mistake_of_ours_keeps_its_traceback(forked, tmp_path):
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="ZeroDivisionError: a mistake of ours"):
        run(break_one, tmp_path, *TWO)


@pytest.mark.parametrize("flags", [("--num-gpus", "2"), ("--num-machines", "2"), ("--dist-url", "auto")])
def test_two_launchers_are_one_too_many(tmp_path, monkeypatch, capfd, flags):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(SystemExit):
        run(say_who, tmp_path, *flags)
    message = capfd.readouterr().err
    assert message.startswith("error: torchrun has started 2 processes, and --num-gpus above 1")
    assert "--nproc_per_node" in message
    assert not (tmp_path / "prepared").exists()
