"""Running a network once, to see which of its maps have the strides of a pyramid."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError

STAGES = {2: "stem", 4: "res2", 8: "res3", 16: "res4", 32: "res5"}
"""Stride in pixels -> Detectron2's name of a map of that stride."""

NORMS = ("FrozenBN", "BN")
"""Batch normalizations as constants, or trained."""

PROBE_SIZE = (128, 160)
"""Height and width of the image on which networks are tried; not square, so that (N, H, W, C) maps are told from
(N, C, H, W)."""


@contextlib.contextmanager
def probing(key: str, name: str, network: nn.Module) -> Iterator[Tensor]:
    """An image of `PROBE_SIZE` for the network, which is in evaluation mode meanwhile."""
    network.eval()
    try:
        yield torch.zeros(1, 3, *PROBE_SIZE)
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"{key}: {name} does not run on images of any size, so it gives no pyramid ({error})"
        ) from error
    finally:
        network.train()


def stride_of(output: Any) -> int:
    """Of an (N, C, H, W) map of the probed image, in pixels; 0 for anything else."""
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[2] == 0:
        return 0
    stride = PROBE_SIZE[0] // output.shape[2]
    return stride if stride > 0 and output.shape[2:] == tuple(side // stride for side in PROBE_SIZE) else 0
