"""A checkpoint and its config: reading the one safely, writing both."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from ...errors import UserError
from ..checkpointer import FCOSCheckpointer, read_class_names

NESTED = ("model", "state_dict")
"""Where checkpoints hold their weights, if not at the top."""

READERS_OWN = ("__author__", "matching_heuristics")
"""What Detectron2's reader keeps beside them."""


class _Reader(FCOSCheckpointer):
    """Reads files as the checkpointer does, without a model to load into."""

    def __init__(self) -> None:
        super().__init__(nn.Module())

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        """The weights stay in the checkpoint."""


class Checkpoint(NamedTuple):
    """What is in a file."""

    weights: dict[str, Any]
    others: list[str]
    """Names of what it holds besides: an optimizer, an iteration, ..."""
    class_names: list[str] | None
    """Those that a training with this package puts beside the weights; the position is the label."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The state dict in a file, whether at its top or below one of `NESTED`; no code in it is executed.

    Raises:
        UserError: if there is no such file or no state dict in it.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    content: Any = _Reader().load(str(path))
    class_names = read_class_names(str(path))
    known = READERS_OWN if class_names is None else (*READERS_OWN, "class_names")
    others: list[str] = []
    while name := next((name for name in NESTED if isinstance(content.get(name), Mapping)), None):
        others += [other for other in content if other not in (name, *known)]
        content = content[name]
    if not content:
        raise UserError(f"{path} holds no state dict")
    weights = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in content.items()
    }
    return Checkpoint(weights, others, class_names)


def write_weights(path: Path, weights: Mapping[str, Tensor], *, class_names: Sequence[str] | None = None) -> None:
    """As a checkpoint that `MODEL.WEIGHTS` takes; a file of the final name is always a whole one.

    Args:
        path: of the file.
        weights: of the whole model.
        class_names: go beside them, where `Predictor` finds them; the position is the label.

    Raises:
        UserError: if it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        names = {} if class_names is None else {"class_names": list(class_names)}
        torch.save({"model": dict(weights), **names}, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch has the latter for a folder that is not there
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error})") from error


def config_text(settings: Mapping[str, Any], *, comment: str, base: str | None = None) -> str:
    """A config file.

    Args:
        settings: config key -> value.
        comment: its first lines, each with a #.
        base: the config that it changes, as named from where it will stand.
    """
    nested: dict[str, Any] = {"_BASE_": base} if base else {"VERSION": 2}
    for key in sorted(settings):
        *groups, name = key.split(".")
        node = nested
        for group in groups:
            node = node.setdefault(group, {})
        value = settings[key]
        node[name] = list(value) if isinstance(value, list | tuple) else value  # a copy, else YAML writes an alias
    return comment + yaml.safe_dump(nested, default_flow_style=None, sort_keys=False, width=1000)
