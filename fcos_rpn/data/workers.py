"""Processes that load images, and one message when one of them dies: of a full memory, or killed by somebody.

torch raises a RuntimeError then, wherever the main thread is, in the midst of a training step as well as between two.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from ..errors import UserError


class WorkerDied(UserError):  # noqa: N818
    """A process that loads images has ended before its time."""

    def __init__(self, what: str) -> None:
        """
        Args:
            what: one line that names the process.
        """
        super().__init__(
            f"{what}\nA process that loads images has ended, most often because memory ran out: the machine's, or that "
            "of /dev/shm. Lower DATALOADER.NUM_WORKERS (0 loads in the process itself), or run less beside it; a "
            "training goes on from its last checkpoint with --resume"
        )


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, endless or not.

    Raises:
        WorkerDied: when a worker does, at once, wherever the main thread is; elsewhere at the next batch.
    """
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    workers = set(multiprocessing.active_children()) - before
    if workers and threading.current_thread() is threading.main_thread():
        _say_so_when_workers_die()
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # also what the mapper raises
            if not _any_ended(workers):
                raise
            lost_contact = not isinstance(error, RuntimeError)  # torch had no time to look after its workers
            raise WorkerDied("DataLoader worker exited unexpectedly" if lost_contact else _first_line(error)) from error
        yield batch


def _any_ended(workers: Iterable[BaseProcess]) -> bool:
    """A connection breaks a moment before its process has ended."""
    sentinels = [worker.sentinel for worker in workers]
    return bool(sentinels and wait(sentinels, timeout=1))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


class WatchedLoader:
    """A loader of a data set's batches, once through, whose workers are watched."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """
        Raises:
            WorkerDied: see `batches_of`.
        """
        return batches_of(self.loader)


class _WorkerDiedHandler:
    """torch's handler of SIGCHLD, which raises a RuntimeError if the child was a worker and has not ended well."""

    def __init__(self, handler: Callable[[int, Any], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            raise WorkerDied(_first_line(error)) from error


def _say_so_when_workers_die() -> None:
    handler = signal.getsignal(signal.SIGCHLD)  # torch's, set with the first workers of this process
    if callable(handler) and not isinstance(handler, _WorkerDiedHandler):
        signal.signal(signal.SIGCHLD, _WorkerDiedHandler(handler))
