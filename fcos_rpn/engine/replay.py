"""What makes a resumed training equal to one that was not killed: randomness that follows from seed and iteration, and
warnings of settings that the checkpoint overrules."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data import TrainLoader
from ..data.seeding import Purpose, mix, seed_generators

logger = logging.getLogger(__name__)

CHECKPOINTS_OWN = {"lr": "initial_lr", "momentum": "momentum", "weight_decay": "weight_decay"}
"""Setting that a resumed training takes from its checkpoint -> its name in the optimizer's groups."""


class Replay(HookBase):
    """Seeds all that is random in a training: which images come when, how each is augmented, what the model draws.

    The batches of a `TrainLoader` begin at the run's first iteration. Before every step the generators of this process
    are seeded anew, since RoI heads choose the proposals that they learn from with the global one. The seed is saved
    in every checkpoint, and a resumed training goes on with that.
    """

    def __init__(self, seed: int, *, key: str = "seed") -> None:
        """
        Args:
            seed: below 0 for a random one, the same in all processes.
            key: what messages call it.
        """
        self.key = key
        self.is_given = seed >= 0
        self.seed = seed if self.is_given else int(comm.shared_random_seed())

    def before_train(self) -> None:
        loader = self.trainer.data_loader
        if isinstance(loader, TrainLoader):
            loader.seed, loader.start = self.seed, self.trainer.start_iter
            trainer: Any = self.trainer
            trainer.reset_data_loader(lambda: loader)

    def before_step(self) -> None:
        seed_generators(mix(Purpose.STEP, self.seed, comm.get_rank(), self.trainer.iter))

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if self.is_given and state["seed"] != self.seed:
            logger.warning(
                "%s %d is ignored: the checkpoint's training began with %d and goes on with it",
                self.key,
                self.seed,
                state["seed"],
            )
        self.seed = state["seed"]


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, list[float]]:
    """Setting of `CHECKPOINTS_OWN` -> its value in each of the optimizer's groups of parameters."""
    groups = optimizer.param_groups
    return {name: [group[own] for group in groups if own in group] for name, own in CHECKPOINTS_OWN.items()}


def warn_of_ignored(
    given: Mapping[str, list[float]], resumed: Mapping[str, list[float]], checkpoint: str, keys: Mapping[str, str]
) -> None:
    """Warn of settings that a checkpoint has overruled, and say how to train with others.

    Args:
        given, resumed: `settings_of` an optimizer before and after the checkpoint was loaded.
        checkpoint: its file.
        keys: config keys of the settings, of `weights` and of `output_dir`.
    """
    for name, values in given.items():
        differing = [pair for pair in zip(values, resumed[name], strict=False) if pair[0] != pair[1]]
        if differing:
            value, own = differing[0]
            logger.warning(
                "%s %g is ignored: the checkpoint's training has %g and goes on with it. To train with another one, "
                "start anew from its weights, without --resume: %s %s and another %s",
                keys[name],
                value,
                own,
                keys["weights"],
                checkpoint,
                keys["output_dir"],
            )
