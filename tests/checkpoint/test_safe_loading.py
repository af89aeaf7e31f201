import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from fcos_rpn.checkpoint.safe_loading import UNSAFE, UnsafeFile, load_pickle, load_torch
from tests.traps import Trap

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "other bytes": np.arange(3, dtype=">i4"),
    "booleans": np.array([True, False]),
    "complex": np.ones(2, dtype=np.complex64),
    "half": np.ones((1, 1, 2), dtype=np.float16),
    "empty": np.zeros((0, 4), dtype=np.int64),
    "single": np.array(5.0),
    "scalar": np.float64(3.5),
    "texts": np.array(["ab", "c"]),
}
OTHERS = {"ordered": OrderedDict(x=[1, (2,)]), "bytes": b"\xff", "no bytes": b"", "ä": None}


def pickled(folder: Path, content: object, protocol: int = 2) -> Path:
    (folder / "file.pkl").write_bytes(pickle.dumps(content, protocol))
    return folder / "file.pkl"


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_are_read(tmp_path, protocol):
    read = load_pickle(pickled(tmp_path, ARRAYS | OTHERS, protocol))
    assert read.keys() == ARRAYS.keys() | OTHERS.keys()
    for name, array in ARRAYS.items():
        assert np.array_equal(read[name], array), name
        assert (read[name].dtype.kind, read[name].shape) == (array.dtype.kind, array.shape)
    assert {name: read[name] for name in OTHERS} == OTHERS
    for name in ("matrix", "columns first", "booleans", "complex", "half", "empty", "single"):
        assert torch.equal(torch.from_numpy(read[name]), torch.from_numpy(ARRAYS[name]))


def test_pickles_of_python_2_are_read(tmp_path):
    # What Python 2 wrote for numpy.arange(2, dtype="f4"): bytes as its plain text, modules under their old names.
    (tmp_path / "file.pkl").write_bytes(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\x80?'\ntb."
    )
    assert load_pickle(tmp_path / "file.pkl").tolist() == [0, 1]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "content",
    [np.array([1, None], dtype=object), np.zeros(2, dtype=[("a", "i4")]), np.dtype("O"), print, torch.zeros(1)],
    ids=["objects", "records", "dtype", "function", "tensor"],
)
def test_all_else_is_refused(tmp_path, content, protocol):
    with pytest.raises(UnsafeFile, match=f"it holds more than weights, namely .*{UNSAFE}=1"):
        load_pickle(pickled(tmp_path, {"weights": content}, protocol))


FORGED = {
    # dtype('O') whose flags say that its arrays are plain bytes: addresses of the file's own choice
    "address": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n"
    b"(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'AAAAAAAA'\ntb.",
    "attribute": b"cnumpy\nndarray.tofile\n.",
    "dotted": b"\x80\x04\x8c\x05numpy\x94\x8c\x10ndarray.__init__\x94\x93\x94.",
    "builtin": b"c__builtin__\neval\n(S'1'\ntR.",
    "system": b"cposix\nsystem\n(S'true'\ntR.",
    "load": b"cnumpy\nload\n(S'file.npy'\ntR.",
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_forged_pickles_are_refused(tmp_path, content):
    (tmp_path / "file.pkl").write_bytes(content)
    with pytest.raises(UnsafeFile):
        load_pickle(tmp_path / "file.pkl")


def test_torchs_files_with_more_say_what_it_is(tmp_path):
    torch.save({"model": Trap(tmp_path / "trap"), "other": print}, tmp_path / "file.pth")
    with pytest.raises(UnsafeFile, match=r"posix\.mkdir") as error:
        load_torch(tmp_path / "file.pth")
    assert "builtins.print" in str(error.value)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_who_trusts_a_file_can_say_so(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"file{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    else:
        torch.save(Trap(tmp_path / "trap"), path)
    load = load_pickle if suffix == ".pkl" else load_torch
    monkeypatch.setenv(UNSAFE, "yes")
    with pytest.raises(UnsafeFile):
        load(path)
    monkeypatch.setenv(UNSAFE, "1")
    load(path)
    assert (tmp_path / "trap").is_dir()
