import pickle
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from detectron2.utils.file_io import PathManager
from safetensors.torch import save_file

from fcos_rpn import UserError
from fcos_rpn.checkpoint import read_checkpoint, read_class_names
from tests.traps import Trap

WEIGHTS = {"head.bias": torch.arange(3.0), "head.weight": torch.ones(2, 2)}
OLD = {name: weight - 1 for name, weight in WEIGHTS.items()}
ARRAYS = {name: weight.numpy() for name, weight in WEIGHTS.items()}


@pytest.fixture
def save(tmp_path):
    def save(content: object, name: str = "file.pth") -> str:
        path = tmp_path / name
        path.write_bytes(pickle.dumps(content)) if path.suffix == ".pkl" else torch.save(content, path)
        return str(path)

    return save


def assert_same(weights):
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize(
    ("name", "content", "others"),
    [
        ("at the top.pth", WEIGHTS, []),
        ("with a number.pth", {**WEIGHTS, "epoch": 3}, ["epoch"]),
        ("detectron2.pth", {"model": WEIGHTS, "iteration": 5, "optimizer": {"state": {}}}, ["iteration", "optimizer"]),
        ("mmdetection.pth", {"meta": {"epoch": 12}, "state_dict": WEIGHTS}, ["meta"]),
        ("nested.pth", {"model": {"state_dict": WEIGHTS, "epoch": 1}, "author": "a"}, ["author", "epoch"]),
        ("torchvision.pth", {"model": OLD, "model_ema": {"n_averaged": torch.tensor(7), **WEIGHTS}}, ["model"]),
        ("timm.pth", {"state_dict": OLD, "state_dict_ema": WEIGHTS, "epoch": 1}, ["state_dict", "epoch"]),
        ("average alone.pth", {"ema_state_dict": WEIGHTS}, []),
        ("pycls.pyth", {"model_state": WEIGHTS, "epoch": 3}, ["epoch"]),
        ("detectron2.pkl", {"model": ARRAYS, "__author__": "Detectron2 Model Zoo"}, []),
    ],
)
def test_layouts(save, name, content, others):
    checkpoint = read_checkpoint(save(content, name))
    assert_same(checkpoint.weights)
    assert list(checkpoint.others) == others
    assert checkpoint.is_heuristic == name.endswith(".pyth")


def test_safetensors(tmp_path, monkeypatch):
    path = str(tmp_path / "file.safetensors")
    save_file(WEIGHTS, path)
    assert_same(read_checkpoint(path).weights)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"file\.safetensors: .* needs safetensors, .*pip install '\.\[safetensors\]'"):
        read_checkpoint(path)


def test_names_are_matched_by_detectron2_if_the_file_or_the_user_says_so(save):
    assert read_checkpoint(f"{save(WEIGHTS)}?matching_heuristics=True").is_heuristic
    said = {"model": ARRAYS, "__author__": "torchvision", "matching_heuristics": True}
    assert read_checkpoint(save(said, "file.pkl")).is_heuristic


def test_class_names(save, tmp_path):
    path = save({"model": WEIGHTS, "class_names": ["red", "blue"]})
    assert read_checkpoint(path).class_names == ["red", "blue"]
    assert read_class_names(path) == read_class_names(f"{path}?matching_heuristics=True") == ["red", "blue"]
    for names in ("red blue", [1, 2], {"red": 1}):
        path = save({"model": WEIGHTS, "class_names": names})
        assert read_class_names(path) is read_checkpoint(path).class_names is None
    (tmp_path / "broken.pth").write_bytes(b"PK")
    for path in (save(WEIGHTS), save([1, 2], "list.pth"), str(tmp_path / "broken.pth"), "gone.pth"):
        assert read_class_names(path) is None


@pytest.mark.parametrize("name", ["nothing.pth", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"^MODEL\.WEIGHTS: there is no file {tmp_path / name}$"):
        read_checkpoint(str(tmp_path / name))


def test_without_a_network_the_address_is_named(monkeypatch):
    def get_local_path(*_: object) -> str:
        raise URLError("Name or service not known")

    address = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    monkeypatch.setattr(PathManager, "get_local_path", get_local_path)
    with pytest.raises(UserError, match=f"cannot get {address} .*Name or service not known"):
        read_checkpoint(address)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {}, {"model": None}, {"model": {}}, {"a": "b"}], ids=str)
def test_a_file_without_weights_is_named(save, content):
    with pytest.raises(UserError, match=r"file\.pth holds no weights: expected is a dict of tensors, or one under mod"):
        read_checkpoint(save(content))


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_a_broken_file_is_named(save, tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    save_file(WEIGHTS, path) if suffix == ".safetensors" else save(ARRAYS if suffix == ".pkl" else WEIGHTS, path.name)
    content = path.read_bytes()
    for broken in (b"", content[: len(content) // 2], content[:-1], b"<html>404</html>"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=rf"file\{suffix} cannot be read as a checkpoint .* may be truncated"):
            read_checkpoint(str(path))


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pyth"])
@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_file_is_not_executed(tmp_path, suffix, nested):
    trap = Trap(tmp_path / "trap")
    content = {"model": {"head.bias": trap}, "__author__": "a friend"} if nested else trap
    path = tmp_path / f"file{suffix}"
    writers = [lambda: path.write_bytes(pickle.dumps(content, protocol=2)), lambda: torch.save(content, path)]
    for write in writers[: 1 if suffix == ".pkl" else 2]:
        write()
        with pytest.raises(UserError, match=r"is not read: it holds more than weights, namely posix\.mkdir|cannot be"):
            read_checkpoint(str(path))
        assert read_class_names(str(path)) is None
    assert not Path(tmp_path / "trap").exists()
