import pickle

import pytest
import torch
import yaml
from detectron2.config import CfgNode

from fcos_rpn import UserError
from fcos_rpn.checkpoint.conversion import config_text, read_checkpoint, write_weights

WEIGHTS = {"head.bias": torch.arange(3.0), "head.weight": torch.ones(2, 2)}


def assert_same(weights):
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize(
    ("content", "others"),
    [
        (WEIGHTS, []),
        ({"model": WEIGHTS, "iteration": 5, "optimizer": {"state": {}}}, ["iteration", "optimizer"]),
        ({"meta": {"epoch": 12}, "state_dict": WEIGHTS}, ["meta"]),
        ({"model": {"state_dict": WEIGHTS, "epoch": 1}, "author": "a"}, ["author", "epoch"]),
    ],
    ids=["at the top", "maskrcnn-benchmark, Detectron2", "mmdetection", "twice"],
)
def test_layouts(tmp_path, content, others):
    torch.save(content, tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert_same(checkpoint.weights)
    assert checkpoint.others == others


def test_detectron2s_pickles(tmp_path):
    content = {"model": {key: value.numpy() for key, value in WEIGHTS.items()}, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content))
    checkpoint = read_checkpoint(tmp_path / "file.pkl")
    assert_same(checkpoint.weights)
    assert checkpoint.others == []


def test_no_code_is_executed_and_broken_files_are_named(tmp_path):
    torch.save({"model": {"head.bias": print}}, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"code\.pth is not read: it holds more than weights"):
        read_checkpoint(tmp_path / "code.pth")
    with pytest.raises(UserError, match=r"text\.pth is no checkpoint that can be read"):
        read_checkpoint(tmp_path / "text.pth")
    with pytest.raises(UserError, match=r"there is no file .*nothing\.pth"):
        read_checkpoint(tmp_path / "nothing.pth")
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"empty\.pth holds no state dict"):
        read_checkpoint(tmp_path / "empty.pth")


def test_round_trip(tmp_path):
    write_weights(tmp_path / "out.pth", WEIGHTS)
    assert_same(read_checkpoint(tmp_path / "out.pth").weights)
    assert read_checkpoint(tmp_path / "out.pth").class_names is None
    assert [path.name for path in tmp_path.iterdir()] == ["out.pth"]


def test_class_names_go_along(tmp_path):
    write_weights(tmp_path / "out.pth", WEIGHTS, class_names=("red", "blue"))
    checkpoint = read_checkpoint(tmp_path / "out.pth")
    assert_same(checkpoint.weights)
    assert (checkpoint.class_names, checkpoint.others) == (["red", "blue"], [])


def test_what_is_no_list_of_names_is_left_behind_by_name(tmp_path):
    torch.save({"model": WEIGHTS, "class_names": {"red": 1}}, tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert (checkpoint.class_names, checkpoint.others) == (None, ["class_names"])


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "out.pth").mkdir()
    with pytest.raises(UserError, match=r"out\.pth: cannot be written"):
        write_weights(tmp_path / "out.pth", WEIGHTS)
    with pytest.raises(UserError, match=r"out\.pth: cannot be written"):
        write_weights(tmp_path / "no" / "out.pth", WEIGHTS)
    assert [path.name for path in tmp_path.iterdir()] == ["out.pth"]


@pytest.mark.parametrize("base", [None, "Base.yaml"])
def test_config_text(tmp_path, base):
    (tmp_path / "Base.yaml").write_text("VERSION: 2\nMODEL:\n  MASK_ON: True\n")
    levels = ["p3", "p4"]
    settings = {"MODEL.FCOS.IN_FEATURES": levels, "MODEL.RPN.IN_FEATURES": levels, "INPUT.FORMAT": "RGB"}
    text = config_text({**settings, "TEST.PRECISE": 0.0}, comment="# one line\n", base=base)
    assert text.startswith("# one line\n")
    assert "&" not in text  # YAML's aliases
    (tmp_path / "out.yaml").write_text(text)
    expected = {
        "MODEL": {"FCOS": {"IN_FEATURES": levels}, "RPN": {"IN_FEATURES": levels}},
        "INPUT": {"FORMAT": "RGB"},
        "TEST": {"PRECISE": 0.0},
    }
    assert yaml.safe_load(text) == {**({"_BASE_": base} if base else {"VERSION": 2}), **expected}
    loaded = CfgNode.load_yaml_with_base(str(tmp_path / "out.yaml"))
    assert loaded["VERSION"] == 2
    assert loaded["MODEL"].get("MASK_ON") is (True if base else None)
