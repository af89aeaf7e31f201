"""Several processes for a test. A server that has imported everything forks them: a fresh interpreter takes ten seconds
for its imports, and a fork of pytest's own process may wait forever for threads of earlier tests."""

import contextlib
import datetime
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils import comm
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

START_METHOD = "forkserver"
PRELOADED = ["fcos_rpn.engine.yaml", "fcos_rpn.engine.launch", "pytest", "tests.tiny", "torch.distributed.launcher.api"]
TIMEOUT = datetime.timedelta(seconds=300)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forked from the server, one for all tests of a pytest process; they see no GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    monkeypatch.setattr(
        torch.multiprocessing,
        "start_processes",
        functools.partial(torch.multiprocessing.start_processes, start_method=START_METHOD),
    )


def run_two_ranks(job: Callable[[int, Path], None], folder: Path) -> None:
    """Run `job(rank, folder)` in two processes of one group; use the fixture `forked` with it."""
    torch.multiprocessing.start_processes(_run_rank, args=(job, folder), nprocs=2)


def _run_rank(rank: int, job: Callable[[int, Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2, timeout=TIMEOUT
    )
    comm.create_local_process_group(2)
    job(rank, folder)
    torch.distributed.destroy_process_group()


def torchrun(
    function: Callable[..., Any],
    *args: Any,
    num_processes: int,
    num_machines: int = 1,
    endpoint: str = "localhost:0",
    start_method: str = START_METHOD,
) -> dict[int, Any]:
    """What `torchrun --nnodes --nproc_per_node --rdzv_endpoint` does, with a function in place of a script.

    Returns:
        Rank -> what the function has returned.
    """
    config = LaunchConfig(
        min_nodes=num_machines,
        max_nodes=num_machines,
        nproc_per_node=num_processes,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=0,
        monitor_interval=0.1,
        start_method=start_method,
    )
    with signal_handlers_restored():
        return elastic_launch(config, function)(*args)


@contextlib.contextmanager
def signal_handlers_restored() -> Iterator[None]:
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    handlers = [signal.getsignal(number) for number in signals]
    yield
    for number, handler in zip(signals, handlers, strict=True):
        signal.signal(number, handler)


def write_output_to(folder: Path) -> None:
    """All that this process and the libraries in it print goes to a file of its own."""
    sys.stdout.flush()
    file = os.open(folder / f"{os.getpid()}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())


def output_of(folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted(folder.glob("*.txt")))
