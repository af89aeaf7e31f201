"""The processes of a training: Detectron2's launcher starts them here, or torchrun has started them already.

A mistake in the config or the data comes up in every one of them, and where one of them ends, the others lose their
connection to it. So the first process of a machine that has a message is the only one to say something.
"""

import argparse
import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException, get_context

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


class _Voice(Protocol):
    """Of all processes of a machine, of which one may say one message."""

    def say(self, message: str) -> None:
        """Print it, or wait until another process has printed its own: the end of one process ends the others."""

    def has_spoken(self) -> bool: ...


def _start(prepare: Prepare, args: argparse.Namespace, when_stopped: str) -> None:
    num_processes = max(1, args.num_gpus)
    is_alone = num_processes * args.num_machines == 1
    voice = _VoiceOfChildren()
    with user_errors_as_messages(when_stopped=when_stopped) if is_alone else _one_message(voice, when_stopped):
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
            args=(job, voice, when_stopped),
        )


def _started(job: Job, voice: _Voice, when_stopped: str) -> None:
    with _one_message(voice, when_stopped):
        job()


def _join(prepare: Prepare, args: argparse.Namespace, when_stopped: str) -> None:
    store, rank, world_size = next(distributed.rendezvous("env://", timeout=DEFAULT_TIMEOUT))
    num_processes = int(os.environ["LOCAL_WORLD_SIZE"])
    with _one_message(_VoiceOfStore(store, os.environ["GROUP_RANK"]), when_stopped):
        _require_one_launcher(args)
        device, job = prepare(num_processes)
        if device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        else:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "gloo" if device == "cpu" else "nccl"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=DEFAULT_TIMEOUT)
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


class _VoiceOfChildren:
    """Shared by a process with those that Detectron2's launcher starts."""

    def __init__(self) -> None:
        self._is_said = get_context("spawn").Value("b", 0)

    def say(self, message: str) -> None:
        with self._is_said.get_lock():
            if not self.has_spoken():
                print(message, file=sys.stderr, flush=True)
                self._is_said.get_obj().value = 1

    def has_spoken(self) -> bool:
        return bool(self._is_said.get_obj().value)  # without the lock, which a killed process may have kept


class _VoiceOfStore:
    """Shared by torchrun's processes of one machine, through the store by which they have found each other."""

    def __init__(self, store: distributed.Store, machine: str) -> None:
        self._store = store
        self._turn, self._said = f"fcos_rpn/{machine}/turn", f"fcos_rpn/{machine}/said"

    def say(self, message: str) -> None:
        try:
            is_first = self._store.add(self._turn, 1) == 1
        except RuntimeError:  # the process that has the store is gone
            is_first = True
        if is_first:
            print(message, file=sys.stderr, flush=True)
        with contextlib.suppress(RuntimeError):
            if is_first:
                self._store.set(self._said, "")
            else:
                self._store.wait([self._said], datetime.timedelta(seconds=10))

    def has_spoken(self) -> bool:
        try:
            return self._store.check([self._said])
        except RuntimeError:
            return False


@contextlib.contextmanager
def _one_message(voice: _Voice, when_stopped: str) -> Iterator[None]:
    """Says mistakes of the user and interruptions. After a message of any process, an exception says nothing more: it
    follows from the end of that process."""
    try:
        with user_errors_as_messages(when_stopped=when_stopped):
            yield
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        voice.say(end.code)
        sys.exit(1)
    except ProcessExitedException as error:
        voice.say(f"error: {error}, perhaps for lack of memory; the same command with --resume goes on")
        sys.exit(1)
    except Exception:
        if voice.has_spoken():
            sys.exit(1)
        raise
