"""What makes a resumed training the one that was killed: a hook that ties its randomness to seed and iteration."""

import logging

from detectron2.engine import HookBase
from detectron2.utils import comm

from .data import TrainLoader
from .data.seeding import Purpose, mix, seed_generators


class Replay(HookBase):
    """Seeds all that is random in a training: which images come when, how each is augmented, what the model draws.

    The batches of a `TrainLoader` begin at the run's first iteration. Before every step the generators of this process
    are seeded anew, since RoI heads choose the proposals that they learn from with the global one. The seed is saved
    in every checkpoint, and a resumed training goes on with that.
    """

    def __init__(self, seed: int) -> None:
        """
        Args:
            seed: below 0 for a random one, the same in all processes.
        """
        self.is_given = seed >= 0
        self.seed = seed if self.is_given else int(comm.shared_random_seed())

    def before_train(self) -> None:
        loader = self.trainer.data_loader
        if isinstance(loader, TrainLoader):
            loader.seed, loader.start = self.seed, self.trainer.start_iter
            self.trainer._trainer.reset_data_loader(lambda: loader)

    def before_step(self) -> None:
        seed_generators(mix(Purpose.STEP, self.seed, comm.get_rank(), self.trainer.iter))

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if self.is_given and state["seed"] != self.seed:
            logging.getLogger(__name__).warning(
                "SEED %d is ignored: the checkpoint's training began with %d and goes on with it",
                self.seed,
                state["seed"],
            )
        self.seed = state["seed"]
