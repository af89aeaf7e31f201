"""Finds weights and class names in the files that this and other programs write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ..errors import UserError, install_hint
from .safe_loading import UnsafeFile, load_pickle, load_torch

AVERAGED = ("model_ema", "ema_state_dict", "state_dict_ema", "ema_state")
"""Where files hold weights averaged over a training: torchvision, timm and others."""

CURRENT = ("model", "state_dict", "model_state", "model_state_dict")
"""Where files hold the weights of the last step: Detectron2, mmdetection, pycls and others."""

HEURISTIC = "?matching_heuristics=True"
"""Behind a file's name: Detectron2 is to match the names of the weights with the model's."""


class Checkpoint(NamedTuple):
    """What a file holds."""

    weights: dict[str, Tensor]
    others: dict[str, Any]
    """What stands beside the weights: class names, an optimizer, an iteration, ..."""
    class_names: list[str] | None
    """The position is the label."""
    is_heuristic: bool
    """See `HEURISTIC`."""


def read_checkpoint(path: str, *, with_averages: bool = True) -> Checkpoint:
    """Read torch's files, .safetensors, Detectron2's and Caffe2's .pkl and pycls' .pyth, without running code in them.

    Args:
        path: a file or an address, also with `HEURISTIC` behind it.
        with_averages: take averaged weights where the file has them besides those of the last step.

    Raises:
        UserError: if there is no such file, it is broken, or it holds no weights.
    """
    name = path.removesuffix(HEURISTIC)
    if "://" not in name and not Path(name).is_file():
        raise UserError(f"MODEL.WEIGHTS: there is no file {name}")
    try:
        content = _load(PathManager.get_local_path(name))
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"MODEL.WEIGHTS: cannot get {path} ({error}). Download it by other means and name the file, or set "
            'MODEL.WEIGHTS "" to train from random weights'
        ) from error
    except UnsafeFile as error:
        raise UserError(f"{path} is not read: {error}") from error
    except Exception as error:  # a broken file stops its reader with nearly any exception
        raise UserError(
            f"{path} cannot be read as a checkpoint ({first_line(error)}). It may be truncated: get it again, or "
            "remove it to start from an earlier one"
        ) from error

    others: dict[str, Any] = {}
    places = (*AVERAGED, *CURRENT) if with_averages else (*CURRENT, *AVERAGED)
    while isinstance(content, Mapping) and (
        place := next((place for place in places if isinstance(content.get(place), Mapping)), None)
    ):
        others |= {key: value for key, value in content.items() if key not in (place, "__author__")}
        content = content[place]
    found = {key: _as_tensor(value) for key, value in content.items()} if isinstance(content, Mapping) else {}
    weights = {key: value for key, value in found.items() if isinstance(value, Tensor) and key != "n_averaged"}
    if not weights:
        raise UserError(
            f"{path} holds no weights: expected is a dict of tensors, or one under {', '.join(CURRENT + AVERAGED)}"
        )
    others |= {key: value for key, value in found.items() if not isinstance(value, Tensor)}
    is_heuristic = bool(others.pop("matching_heuristics", False)) or path.endswith(HEURISTIC)
    return Checkpoint(weights, others, _class_names(others), is_heuristic)


def _load(file: str) -> Any:
    if file.endswith(".safetensors"):
        try:
            from safetensors.torch import load_file
        except ModuleNotFoundError as error:
            raise UserError(
                f"{file}: reading it needs safetensors, which is not installed: {install_hint('safetensors')}"
            ) from error
        return load_file(file)
    if file.endswith(".pkl"):
        content = load_pickle(file)
        if "__author__" in content:
            return content
        weights = {key: value for key, value in content.get("blobs", content).items() if not key.endswith("_momentum")}
        # Translated here, since Detectron2 would only warn of other shapes.
        weights, _ = convert_c2_detectron_names({key: _as_tensor(value) for key, value in weights.items()})
        return {"model": weights, "matching_heuristics": True}
    content = load_torch(file)
    return {**content, "matching_heuristics": True} if file.endswith(".pyth") else content


def _as_tensor(value: Any) -> Any:
    is_numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
    return torch.from_numpy(value) if is_numbers else value


def read_class_names(path: str) -> list[str] | None:
    """Read the names of the classes that a checkpoint's model was trained on; the position is the label.

    Returns:
        None for a file without them, such as another program's, and for one that is missing or broken, which
        `FCOSCheckpointer.load` reports.
    """
    try:
        content = load_torch(PathManager.get_local_path(path.removesuffix(HEURISTIC)), mmap=True)
    except Exception:  # a broken file stops its reader with nearly any exception
        return None
    return _class_names(content) if isinstance(content, Mapping) else None


def _class_names(content: Mapping[str, Any]) -> list[str] | None:
    names = content.get("class_names")
    is_ours = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_ours else None


def compare_class_names(of_checkpoint: Sequence[str], of_data: Sequence[str], advice: str) -> str:
    """Compare the classes that a checkpoint was trained on with those that it is used for.

    Args:
        of_checkpoint, of_data: as many names; the position is the label.
        advice: the last sentence of the error.

    Returns:
        A warning that lists the names that differ; "" where none does.

    Raises:
        UserError: if the names are the same in another order, so that detections would be called wrongly.
    """
    pairs = [f"{ours} -> {theirs}" for ours, theirs in zip(of_checkpoint, of_data, strict=False) if ours != theirs]
    if pairs and sorted(of_checkpoint) == sorted(of_data):
        raise UserError(
            "the checkpoint was trained on the same classes in another order:\n"
            f"  checkpoint: {', '.join(of_checkpoint)}\n  data: {', '.join(of_data)}\n{advice}"
        )
    return f"The checkpoint and the data have other names for classes: {', '.join(pairs)}" if pairs else ""


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
