import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcos_rpn import UserError
from fcos_rpn.data import TrainLoader
from fcos_rpn.data.loader import ImageOrder
from fcos_rpn.data.workers import WatchedLoader, WorkerDied, batches_of


class Numbers(Dataset):
    """0, 1, 2, ...; a negative size makes every one an error."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return abs(self.size)

    def __getitem__(self, index: int) -> int:
        if self.size < 0:
            raise RuntimeError("out of luck")
        return index


def numbers(size: int, num_workers: int) -> DataLoader:
    return DataLoader(Numbers(size), batch_size=2, num_workers=num_workers)


def kill_a_worker(*, wait: float = 0.0) -> None:
    worker = multiprocessing.active_children()[0]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(wait)


def test_a_worker_that_is_killed_is_said_at_once():
    batches = batches_of(numbers(1000, num_workers=2))
    next(batches)
    begin = time.monotonic()
    with pytest.raises(WorkerDied, match=r"(?s)worker \(pid [0-9]+\) is killed by signal.*NUM_WORKERS.*--resume"):
        kill_a_worker(wait=30)  # the main thread does something else
    assert time.monotonic() - begin < 25


def test_a_worker_that_is_killed_while_nobody_listens_is_said_at_a_later_batch():
    batches = batches_of(numbers(100_000, num_workers=2))
    next(batches)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        kill_a_worker()
        with pytest.raises(WorkerDied, match=r"(?s)exited unexpectedly.*--resume"):
            list(batches)  # torch looks after its workers every 5 seconds that it waits
    finally:
        signal.signal(signal.SIGCHLD, handler)


class LosesContact(DataLoader):
    """Its worker is killed, which nobody hears, and then a connection to it breaks."""

    def __iter__(self):
        batches = super().__iter__()

        def contact() -> Iterator[Tensor]:
            yield next(batches)
            kill_a_worker()
            raise ConnectionResetError(104, "Connection reset by peer")

        return contact()


def test_a_connection_that_breaks_as_its_worker_is_killed():
    handler = signal.getsignal(signal.SIGCHLD)
    batches = batches_of(LosesContact(Numbers(100_000), num_workers=1))
    next(batches)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with pytest.raises(WorkerDied, match=r"^DataLoader worker exited unexpectedly\n.*--resume"):
            next(batches)
    finally:
        signal.signal(signal.SIGCHLD, handler)


def test_an_evaluation_ends_with_the_same_message():
    loader = WatchedLoader(numbers(1000, num_workers=1))
    assert len(loader) == 500
    batches = iter(loader)
    next(batches)
    with pytest.raises(UserError, match=r"NUM_WORKERS.*--resume"):
        kill_a_worker(wait=30)


def test_a_training_ends_with_one_message():
    records = [{"id": index} for index in range(10)]
    batches = iter(TrainLoader(records, dict, order=ImageOrder([False] * 10), batch_size=2, num_workers=1))
    next(batches)
    with pytest.raises(UserError, match=r"NUM_WORKERS.*--resume"):
        kill_a_worker(wait=30)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_of_the_data_set_stay_what_they_are(num_workers):
    with pytest.raises(RuntimeError, match="out of luck"):
        next(batches_of(numbers(-4, num_workers)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_end_where_the_loader_does(num_workers):
    batches = batches_of(numbers(3, num_workers))
    assert [batch.tolist() for batch in batches] == [[0, 1], [2]]


def test_an_iterator_that_is_dropped_leaves_no_worker():
    others = set(multiprocessing.active_children())
    batches = batches_of(numbers(1000, num_workers=2))
    assert len(list(itertools.islice(batches, 2))) == 2
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    del batches
    assert not any(worker.is_alive() for worker in workers)
