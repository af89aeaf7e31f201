"""Run a network once to find the maps that have the strides of a pyramid."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ArgumentError

STAGES = {2: "stem", 4: "res2", 8: "res3", 16: "res4", 32: "res5"}
"""Stride in pixels -> Detectron2's name of a map of that stride."""

NORMS = ("FrozenBN", "BN")
"""Batch normalizations are constants, or are trained."""

PROBE_SIZE = (128, 160)
"""Height and width of the probe image; not square, to distinguish (N, H, W, C) maps from (N, C, H, W)."""


@contextlib.contextmanager
def probing(name: str, network: nn.Module) -> Iterator[Tensor]:
    """Put the network into evaluation mode and yield an image of `PROBE_SIZE`.

    Raises:
        ArgumentError: if the network does not run on it.
    """
    network.eval()
    try:
        yield torch.zeros(1, 3, *PROBE_SIZE)
    except (AssertionError, RuntimeError) as error:
        raise ArgumentError(
            "name", f"{name!r} is a network for images of one size, which gives no pyramid ({error})"
        ) from error
    finally:
        network.train()


def stride_of(output: Any) -> int:
    """Return the stride of an (N, C, H, W) map of the probe image, in pixels; 0 for anything else."""
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[2] == 0:
        return 0
    stride = PROBE_SIZE[0] // output.shape[2]
    return stride if stride > 0 and output.shape[2:] == tuple(side // stride for side in PROBE_SIZE) else 0
