"""Reads files of weights without running what else they may hold.

A pickle is a program. Of torch's files only tensors and plain containers are taken, of Detectron2's .pkl only numpy
arrays of numbers and plain containers. `UNSAFE` in the environment lifts both. It is no config key, since a config may
come from where the weights come from.
"""

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

UNSAFE = "FCOS_RPN_UNSAFE_WEIGHTS"
"""Environment variable: 1 lets a file of weights run code."""

PLAIN_DTYPES = re.compile(r"[biufcSU]\d+")
"""Numbers and text. Object arrays hold addresses."""


class UnsafeFile(pickle.UnpicklingError):
    """It holds more than weights."""

    def __init__(self, parts: str) -> None:
        super().__init__(
            f"it holds more than weights, namely {parts}, which may run any code. If you trust whoever made it as you "
            f"trust a program, set the environment variable {UNSAFE}=1"
        )


def is_unsafe_allowed() -> bool:
    return os.environ.get(UNSAFE) == "1"


def load_torch(path: str | Path, *, mmap: bool = False) -> Any:
    """
    Args:
        path: what `torch.save` wrote.
        mmap: the weights stay on the disk until they are used.

    Raises:
        UnsafeFile: if the file names what else it holds. A broken file raises nearly any other exception.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=not is_unsafe_allowed(), mmap=mmap)
    except pickle.UnpicklingError as error:
        if parts := _foreign_parts(path):
            raise UnsafeFile(", ".join(parts)) from error
        raise


def load_pickle(path: str | Path) -> Any:
    """
    Args:
        path: one of Detectron2's or Caffe2's .pkl.

    Raises:
        UnsafeFile: if it holds anything but numpy arrays and plain containers.
    """
    with open(path, "rb") as file:
        if is_unsafe_allowed():
            return pickle.load(file, encoding="latin1")
        return _NumpyUnpickler(file, encoding="latin1").load()


def _foreign_parts(path: str | Path) -> list[str]:
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # no torch can tell of a file that is broken or of the old format
        return []


class _PlainDtype:
    """Stands for a dtype while a pickle is read: numpy's own takes any flags from it, and with them any address."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or not PLAIN_DTYPES.fullmatch(name):
            raise UnsafeFile(f"an array of {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _PlainArray(np.ndarray[Any, Any]):
    """An array that takes only a `_PlainDtype` from a pickle."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, plain, is_fortran, data = state
        super().__setstate__((1, shape, plain.dtype, bool(is_fortran), data))  # type: ignore[arg-type]  # wrong in its stubs


def _reconstruct(*_: Any) -> NDArray[Any]:
    return np.zeros(0).view(_PlainArray)


def _from_buffer(buffer: bytes, plain: _PlainDtype, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    flat = np.frombuffer(buffer, dtype=plain.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(plain: _PlainDtype, data: bytes | str) -> Any:
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=plain.dtype, count=1)[0]


def _encode(text: str, _: str) -> bytes:
    return text.encode("latin1")  # as pickles up to protocol 2 write bytes


def _no_bytes() -> bytes:
    return b""


class _NumpyUnpickler(pickle.Unpickler):
    """Knows nothing but what numpy arrays and plain containers need."""

    KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): _PlainArray,
        ("numpy", "dtype"): _PlainDtype,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): OrderedDict,
        **{
            (module, name): stand_in
            for module in ("builtins", "__builtin__")  # of Python 3 and 2
            for name, stand_in in (("set", set), ("frozenset", frozenset), ("bytes", _no_bytes))
        },
        **{
            (f"numpy.{core}.{module}", name): stand_in
            for core in ("core", "_core")  # before and since numpy 2
            for module, name, stand_in in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _from_buffer),
            )
        },
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise UnsafeFile(f"{module}.{name}")
        return self.KNOWN[module, name]
