"""Writes a converted checkpoint and its config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ...errors import write_whole


def write_weights(path: Path, weights: Mapping[str, Tensor], *, class_names: Sequence[str] | None = None) -> None:
    """Write a checkpoint for `MODEL.WEIGHTS`.

    Args:
        path: of the file.
        weights: of the whole model.
        class_names: go beside them, where `Predictor` finds them; the position is the label.

    Raises:
        UserError: if it cannot be written.
    """
    names = {} if class_names is None else {"class_names": list(class_names)}
    with write_whole(path) as file:
        torch.save({"model": dict(weights), **names}, file)


def config_text(settings: Mapping[str, Any], *, comment: str, base: str | None = None) -> str:
    """Write the text of a config file.

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
