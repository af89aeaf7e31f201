"""Start the processes of a job with Detectron2's launcher, or join those that torchrun has started.

A mistake in the config or the data comes up in every process, and where one process ends, the others lose their
connection to it. So only the first process of a machine that has a message prints it.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException

from ..errors import UserError, user_errors_as_messages

Prepare = Callable[[int], tuple[str, Callable[[], None]]]
"""Number of processes on this machine -> their device, and what each of them is to call."""

Job = Callable[[], None]


def launch(prepare: Prepare, args: argparse.Namespace, *, when_stopped: str) -> None:
    """Run a job in one process for each GPU, or in as many on the CPU; in this one, if torchrun has started it.

    Args:
        prepare: called before the processes are started, or in each of torchrun's. The job that it returns must be
            something that can be pickled, such as a `functools.partial` of a module's function.
        args: of Detectron2's argument parser.
        when_stopped: what an interruption is to say.
    """
    if distributed.is_torchelastic_launched():
        _join(prepare, args, when_stopped)
    else:
        _start(prepare, args, when_stopped)


def _start(prepare: Prepare, args: argparse.Namespace, when_stopped: str) -> None:
    num_processes = max(1, args.num_gpus)
    is_alone = num_processes * args.num_machines == 1
    with tempfile.TemporaryDirectory(prefix="fcos_rpn-") as folder:
        spoken = Path(folder) / "spoken"
        with user_errors_as_messages(when_stopped=when_stopped) if is_alone else _one_message(spoken, when_stopped):
            device, job = prepare(num_processes)
            if device == "cpu":
                os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else Detectron2's launcher gives every process a GPU
            if is_alone:
                job()
                return
            detectron2_launch(
                _started,
                num_processes,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(job, spoken, when_stopped),
            )


def _started(job: Job, spoken: Path, when_stopped: str) -> None:
    with _one_message(spoken, when_stopped):
        job()


def _join(prepare: Prepare, args: argparse.Namespace, when_stopped: str) -> None:
    # Another name for every machine's agent, and for every restart of its processes.
    agent = [str(os.getppid()), os.environ["MASTER_PORT"], os.environ["TORCHELASTIC_RESTART_COUNT"]]
    with _one_message(Path(tempfile.gettempdir()) / f"fcos_rpn-{'-'.join(agent)}", when_stopped):
        _require_one_launcher(args)
        num_processes = int(os.environ["LOCAL_WORLD_SIZE"])
        device, job = prepare(num_processes)
        if device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        else:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=DEFAULT_TIMEOUT)
        comm.create_local_process_group(num_processes)
        comm.synchronize()
        job()
        distributed.destroy_process_group()


def _require_one_launcher(args: argparse.Namespace) -> None:
    default_url = default_argument_parser().get_default("dist_url")
    if args.num_gpus > 1 or args.num_machines > 1 or args.machine_rank or args.dist_url != default_url:
        raise UserError(
            f"torchrun has started {os.environ['WORLD_SIZE']} processes, and --num-gpus above 1, --num-machines, "
            "--machine-rank or --dist-url ask for others: leave these out and say how many with torchrun's own "
            "--nproc_per_node, --nnodes, --rdzv_backend and --rdzv_endpoint (--num-gpus 0 still means the CPU)"
        )


@contextlib.contextmanager
def _one_message(spoken: Path, when_stopped: str) -> Iterator[None]:
    """Print a user's mistake or an interruption, unless another process of this machine already has.

    After a message of any process, other exceptions are silent, too: they follow from the end of that process.

    Args:
        spoken: a file that exists as soon as one process has a message.
    """
    try:
        with user_errors_as_messages(when_stopped=when_stopped):
            yield
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        _say(end.code, spoken)
        sys.exit(1)
    except ProcessExitedException as error:
        _say(f"error: {error}, perhaps for lack of memory; rerun with --resume to continue", spoken)
        sys.exit(1)
    except Exception:
        if spoken.exists():
            sys.exit(1)
        raise


def _say(message: str, spoken: Path) -> None:
    with contextlib.suppress(FileExistsError):
        spoken.open("x").close()
        print(message, file=sys.stderr, flush=True)
