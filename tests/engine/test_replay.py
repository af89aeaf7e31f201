import logging
import random

import numpy as np
import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm

from fcos_rpn.data.loader import ImageOrder, TrainLoader
from fcos_rpn.engine.replay import Replay


class Drawing(SimpleTrainer):
    """Its steps keep their batch and what they draw."""

    def __init__(self, seed: int = 3) -> None:
        records = [{"id": index} for index in range(10)]
        loader = TrainLoader(records, lambda record: record["id"], order=ImageOrder([False] * 10), batch_size=2)
        super().__init__(torch.nn.Linear(1, 1), loader, torch.optim.SGD([torch.zeros(1)], lr=1.0))
        self.steps: list[tuple] = []
        self.register_hooks([Replay(seed)])

    def run_step(self) -> None:
        batch = next(self._data_loader_iter)
        self.steps.append((batch, random.random(), np.random.rand(), torch.rand(()).item()))


def steps(start: int, end: int, **seed: int) -> list[tuple]:
    trainer = Drawing(**seed)
    trainer.train(start, end)
    return trainer.steps


def test_a_run_that_starts_later_goes_on_with_the_batches_and_what_is_drawn():
    whole = steps(0, 6)
    assert steps(4, 6) == whole[4:]
    assert len({step[1:] for step in whole}) == 6
    other_seed = steps(0, 6, seed=4)
    assert all(one[1:] != other[1:] for one, other in zip(whole, other_seed, strict=True))
    assert [step[0] for step in other_seed] != [step[0] for step in whole]


def test_processes_draw_differently(monkeypatch):
    first = steps(0, 2)
    monkeypatch.setattr("fcos_rpn.engine.replay.comm.get_rank", lambda: 1)
    assert not {step[3] for step in first} & {step[3] for step in steps(0, 2)}


def test_a_drawn_seed_is_saved_and_taken_up(monkeypatch):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 77)
    saved = Drawing(seed=-1)
    assert saved.state_dict()["hooks"] == {"Replay": {"seed": 77}}
    saved.train(0, 4)

    monkeypatch.setattr(comm, "shared_random_seed", lambda: 78)
    resumed = Drawing(seed=-1)
    resumed.load_state_dict({**resumed.state_dict(), "iteration": 1, "hooks": {"Replay": {"seed": 77}}})
    resumed.train(2, 4)
    assert resumed.steps == saved.steps[2:] != steps(2, 4, seed=-1)


@pytest.mark.parametrize(("seed", "is_warned"), [(77, False), (5, True), (-1, False)])
def test_the_checkpoints_seed_counts(caplog, seed, is_warned):
    logger = logging.getLogger("fcos_rpn.engine.replay")
    logger.addHandler(caplog.handler)
    hook = Replay(seed)
    hook.load_state_dict({"seed": 77})
    logger.removeHandler(caplog.handler)
    assert hook.seed == 77
    assert ("seed 5 is ignored: the checkpoint's training began with 77" in caplog.text) == is_warned


def test_other_loaders_are_left_alone():
    trainer = Drawing()
    trainer.data_loader = [["a"], ["b"]]
    trainer.train(1, 3)
    assert [step[0] for step in trainer.steps] == [["a"], ["b"]]
