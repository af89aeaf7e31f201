"""Random numbers that follow from a seed and a place in the training, and from nothing that happened before."""

import contextlib
import enum
import random
from collections.abc import Iterator

import numpy as np
import torch


class Purpose(enum.IntEnum):
    """What random numbers are for. Those of one purpose have nothing to do with another's."""

    SUBSET = 0
    """Which images are trained on, if not all are."""
    EPOCH = 1
    """Order of an epoch's images; its place is the number of the epoch."""
    IMAGE = 2
    """Augmentation; its place is the image's position in the training."""
    STEP = 3
    """All that the model draws, such as the proposals to learn from; its place is rank and iteration."""


def mix(purpose: Purpose, seed: int, *place: int) -> int:
    """A seed of 64 bits for a generator, the same on every machine.

    Args:
        purpose: always with as many numbers of a place.
        seed: of the training, not negative.
        place: numbers from 0 to 2^32 - 1.
    """
    # The seed comes last because one of more than 32 bits would be read as two numbers.
    return int(np.random.SeedSequence((purpose, *place, seed)).generate_state(1, np.uint64)[0])


def seed_generators(number: int) -> None:
    """Python's, numpy's and torch's generators of this process, those of the GPUs included."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


@contextlib.contextmanager
def seeded_generators(number: int) -> Iterator[None]:
    """Within, the generators of the CPU are seeded; behind it, they go on as if nothing had been drawn."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
