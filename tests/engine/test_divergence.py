"""The guard by itself; a whole training that diverges is in test_trainer."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.defaults import create_ddp_model
from torch import nn

from fcos_rpn.engine.divergence import NUM_SKIPPED, DivergenceGuard, TrainingDiverged
from tests.processes import run_two_ranks


class Model(nn.Module):
    """Its losses are what the batch says, times a weight of 1; a text is raised."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm1d(1, affine=False)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        (x,) = batch
        self.norm(torch.tensor([[x["loc"]], [1.0]]))  # statistics that the loss spoils
        if "error" in x:
            raise FloatingPointError(x["error"])
        return {"loss_cls": self.weight * x.get("cls", 1.0), "loss_loc": self.weight * x["loc"]}


class Guarded(SimpleTrainer):
    """Trains with steps under a guard."""

    def __init__(self, batches: Sequence[dict[str, Any]], max_skipped: int, last_finite: Path | None = None) -> None:
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        super().__init__(
            create_ddp_model(model, broadcast_buffers=False, device_ids=None), [[x] for x in batches], optimizer
        )
        self.guard = DivergenceGuard(
            max_skipped_in_a_row=max_skipped, last_finite=lambda: last_finite, advice="Lower the rate"
        )
        self.register_hooks([self.guard])
        self.weights: list[float] = []
        self.statistics: list[float] = []
        self.num_skipped: list[float] = []

    def run_step(self) -> None:
        with self.guard.watch(self.model):
            super().run_step()
        model = self.model.module if isinstance(self.model, nn.parallel.DistributedDataParallel) else self.model
        self.weights.append(model.weight.item())
        self.statistics.append(model.norm.running_mean.item())
        self.num_skipped.append(self.storage.latest().get(NUM_SKIPPED, (0, 0))[0])


GOOD = {"loc": 1.0, "file_name": "good.png"}
BAD = {"loc": math.nan, "file_name": "bad.png"}
WORSE = {"loc": -math.inf, "cls": math.inf, "image_id": 7}
RAISING = {"loc": math.nan, "error": "RPN predicted NaN", "file_name": "raising.png"}


@pytest.fixture
def warnings(caplog, detectron2_restored):
    logging.getLogger("fcos_rpn").propagate = True
    return lambda: [record.getMessage() for record in caplog.records if record.name == "fcos_rpn.engine.divergence"]


def train(*batches: dict[str, Any], max_skipped: int = 0, last_finite: Path | None = None) -> Guarded:
    trainer = Guarded(batches, max_skipped, last_finite)
    trainer.train(0, len(batches))
    return trainer


def test_finite_losses_train_as_without_a_guard():
    trainer = train(GOOD, GOOD)
    # The gradient of 2·w is 2: 1 - .1·2, then with momentum 1.8 + 2: .8 - .1·3.8.
    assert trainer.weights == pytest.approx([0.8, 0.42])
    assert not trainer.model._forward_hooks
    assert not trainer.model._forward_pre_hooks


@pytest.mark.parametrize(
    ("batch", "what", "image"),
    [
        (BAD, "loss_loc is nan", "bad.png"),
        (WORSE, "loss_cls is inf, loss_loc is -inf", "image 7"),
        (RAISING, "RPN predicted NaN", "raising.png"),
    ],
)
def test_it_stops_with_all_facts(tmp_path, batch, what, image):
    trainer = Guarded([GOOD, batch], 0, tmp_path / "model_0000000.pth")
    with pytest.raises(TrainingDiverged) as error:
        trainer.train(0, 2)
    assert str(error.value) == (
        f"training diverged at iteration 1, learning rate 0.1: {what}\nImages: {image}\n"
        f"The last checkpoint with finite weights is {tmp_path / 'model_0000000.pth'}. Lower the rate"
    )
    assert trainer.model.weight.item() == pytest.approx(0.8)  # of the first step


@pytest.mark.parametrize("bad", [BAD, WORSE, RAISING])
def test_skipped_steps_change_nothing_and_are_counted(warnings, bad):
    trainer = train(GOOD, bad, bad, GOOD, bad, max_skipped=2)
    assert trainer.weights == pytest.approx([0.8, 0.8, 0.8, 0.42, 0.42])
    # A mean of 1 with momentum .1: .1, then .1·.9 + .1.
    assert trainer.statistics == pytest.approx([0.1, 0.1, 0.1, 0.19, 0.19])
    assert trainer.num_skipped == [0, 1, 2, 2, 3]
    first, second, third, end = warnings()
    assert first.startswith("Step skipped at iteration 1, learning rate 0.1: ")
    assert "Images: " in first
    assert first.endswith("\nSkipped: 1 in a row, at most 2; 1 of the whole training")
    assert second.endswith("\nSkipped: 2 in a row, at most 2; 2 of the whole training")
    assert third.endswith("\nSkipped: 1 in a row, at most 2; 3 of the whole training")
    assert end == "3 steps of this training were skipped: their loss was not finite"


def test_one_more_in_a_row_stops(warnings):
    with pytest.raises(TrainingDiverged, match=r"at iteration 3, .*\n.*\n2 steps before it were skipped\n"):
        train(GOOD, BAD, BAD, BAD, GOOD, max_skipped=2)
    assert warnings()[-1].startswith("2 steps of this training")


def test_counts_go_on_when_resumed():
    killed = train(GOOD, BAD, max_skipped=2)
    resumed = Guarded([BAD, GOOD], 2)
    resumed.load_state_dict(killed.state_dict())
    resumed.train(2, 4)
    assert resumed.num_skipped == [2, 2]
    resumed = Guarded([BAD, GOOD], 1)
    resumed.load_state_dict(killed.state_dict())
    with pytest.raises(TrainingDiverged, match="at iteration 2, "):
        resumed.train(2, 4)


def test_other_errors_pass():
    trainer = Guarded([{"file_name": "a.png"}], 1)  # has no loss
    with pytest.raises(KeyError, match="loc"):
        trainer.train(0, 1)
    assert not trainer.model._forward_hooks


RANK_BATCHES = (
    [GOOD, GOOD, BAD, GOOD, RAISING, GOOD, BAD, BAD],
    [GOOD, BAD, GOOD, GOOD, GOOD, GOOD, GOOD, RAISING],
)
"""In steps 1, 2, 4 and 6 one of two processes alone has something wrong; in the last both have."""


def run_rank(rank: int, folder: Path) -> None:
    trainer = Guarded(RANK_BATCHES[rank], 2)
    trainer.train(0, 7)
    found: dict[str, Any] = {"weights": trainer.weights, "num_skipped": trainer.num_skipped}
    stopping = Guarded(RANK_BATCHES[rank][-1:], 0)
    try:
        stopping.train(0, 1)
    except TrainingDiverged as error:
        found["message"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(found))


def test_processes_decide_alike(tmp_path, forked):
    run_two_ranks(run_rank, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    # Gradients of 2 in steps 0, 3 and 5: .8, .42, then momentum 3.8·.9 + 2 = 5.42.
    assert first["weights"] == pytest.approx([0.8, 0.8, 0.8, 0.42, 0.42, -0.122, -0.122])
    assert first["num_skipped"] == [0, 1, 2, 2, 3, 3, 4]
    assert "process 0: loss_loc is nan\nImages: bad.png\n" in first["message"]
    assert "process 1: RPN predicted NaN\nImages: raising.png\n" in first["message"]
