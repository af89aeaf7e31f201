"""Reads files of weights without running code that they may hold.

A pickle is a program. From torch's files only tensors and plain containers are read, from Detectron2's .pkl files only
numpy arrays of numbers or text and plain containers. The environment variable `UNSAFE` lifts both limits. It is not a
config key, since a config may come from the same place as the weights.
"""

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

UNSAFE = "FCOS_RPN_UNSAFE_WEIGHTS"
"""Environment variable: 1 lets a file of weights run code."""


class UnsafeFile(pickle.UnpicklingError):
    """The file holds more than weights."""

    def __init__(self, parts: str) -> None:
        super().__init__(
            f"it holds more than weights, namely {parts}, which may run any code. If you trust its author as you trust "
            f"the author of a program, set the environment variable {UNSAFE}=1"
        )


def is_unsafe_allowed() -> bool:
    return os.environ.get(UNSAFE) == "1"


def load_torch(path: str | Path, *, mmap: bool = False) -> Any:
    """Read what `torch.save` wrote.

    Args:
        path: the file.
        mmap: leave weights on the disk until they are used.

    Raises:
        UnsafeFile: if the file says what else it holds. A broken file raises nearly any other exception.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=not is_unsafe_allowed(), mmap=mmap)
    except pickle.UnpicklingError as error:
        if parts := _foreign_parts(path):
            raise UnsafeFile(", ".join(parts)) from error
        raise


def _foreign_parts(path: str | Path) -> list[str]:
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # torch cannot tell for a broken file or one of the old format
        return []


def load_pickle(path: str | Path) -> Any:
    """Read one of Detectron2's or Caffe2's .pkl files, from Python 2 or 3.

    Raises:
        UnsafeFile: if it holds anything but numpy arrays and plain containers.
    """
    with open(path, "rb") as file:
        unpickler = pickle.Unpickler if is_unsafe_allowed() else _NumpyUnpickler
        return unpickler(file, encoding="latin1").load()


class _PlainDtype:
    """Stands for a dtype in a pickle. A real one takes any flags from it, and so any address as that of an object."""

    def __init__(self, name: str, *_: Any) -> None:
        if not re.fullmatch(r"[biufcSU]\d+", name):  # numbers and text
            raise UnsafeFile(f"an array of {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _PlainArray(np.ndarray[Any, Any]):
    """An array that takes only a `_PlainDtype` from a pickle."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, plain, is_fortran, data = state
        super().__setstate__((1, shape, plain.dtype, bool(is_fortran), data))  # type: ignore[arg-type]  # wrong in its stubs


ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _PlainArray,
    "numpy.dtype": _PlainDtype,
    "numpy.core.multiarray._reconstruct": lambda *_: np.zeros(0).view(_PlainArray),
    "numpy.core.multiarray.scalar": lambda plain, data: np.frombuffer(data, plain.dtype, count=1)[0],
    "numpy.core.numeric._frombuffer": lambda data, plain, shape, order: (
        np.frombuffer(data, plain.dtype).reshape(shape, order=order).copy()
    ),
    "_codecs.encode": lambda text, _: text.encode("latin1"),  # bytes, up to protocol 2
    "__builtin__.bytes": lambda: b"",
    "collections.OrderedDict": OrderedDict,
}
"""Full name in a pickle -> what is called in its place."""


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # since numpy 2
        if full_name not in ALLOWED:
            raise UnsafeFile(full_name)
        return ALLOWED[full_name]
