from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model

from fcos_rpn import UserError, add_fcos_config
from fcos_rpn.config import PARTS, is_lazy, merge_file, merge_overrides, read_config
from fcos_rpn.model_zoo import find_config
from tests.tiny import tiny_config


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_fcos_config(cfg)
    return cfg


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def error_of_file(cfg: CfgNode, path: Path) -> str:
    before = cfg.dump()
    with pytest.raises(UserError) as error:
        merge_file(cfg, path)
    assert cfg.dump() == before
    return str(error.value)


class RecordingNode(CfgNode):
    """Remembers the keys that are read, of all such nodes together."""

    read: ClassVar[set[str]] = set()

    def __getattr__(self, name):
        RecordingNode.read.add(name)
        return super().__getattr__(name)


def test_every_key_is_read_by_a_role_or_a_backbone():
    for meta_architecture in ("FCOS", "ProposalNetwork"):
        cfg = tiny_config(meta_architecture)
        for node in ("FCOS", "TORCHVISION"):
            cfg.MODEL[node] = RecordingNode(yaml.safe_load(cfg.MODEL[node].dump()))
        build_model(cfg)
    assert RecordingNode.read >= {*cfg.MODEL.FCOS, *cfg.MODEL.FCOS.LOSS_WEIGHTS, *cfg.MODEL.TORCHVISION}
    RecordingNode.read.clear()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM = RecordingNode({"NAME": "test_resnet", "NORM": "BN"})
    build_backbone(cfg)
    assert RecordingNode.read >= {*cfg.MODEL.TIMM}


def test_detectron2s_own_defaults_stay_untouched(cfg):
    ours, theirs = (yaml.safe_load(config.dump()) for config in (cfg, get_cfg()))

    def only_added_to(ours: Any, theirs: Any) -> bool:
        if isinstance(theirs, dict):
            return all(only_added_to(ours[name], value) for name, value in theirs.items())
        return ours == theirs

    assert ours != theirs
    assert only_added_to(ours, theirs)


def test_a_group_of_keys_that_is_taken_is_refused_and_stays(cfg):
    cfg.MODEL.FCOS.NUM_CLASSES = 3
    with pytest.raises(UserError, match=r"MODEL\.FCOS and MODEL\.TORCHVISION and MODEL\.TIMM, from an earlier call"):
        add_fcos_config(cfg)
    assert cfg.MODEL.FCOS.NUM_CLASSES == 3

    other = get_cfg()
    other.MODEL.FCOS = CfgNode({"TOP_LEVELS": 2})  # as AdelaiDet's
    with pytest.raises(UserError, match=r"already has MODEL\.FCOS, from .*call it once, on a config from detectron2"):
        add_fcos_config(other)
    assert other.MODEL.FCOS == {"TOP_LEVELS": 2}
    assert "TIMM" not in other.MODEL


def test_file_with_base_and_overrides_merge_in_this_order(cfg, write):
    write("VERSION: 2\nMODEL:\n  FCOS:\n    NUM_CLASSES: 3\n    NORM: ''\nSOLVER:\n  BASE_LR: 0.5\n", "base.yaml")
    merge_file(cfg, write("_BASE_: base.yaml\nMODEL:\n  FCOS:\n    NUM_CLASSES: 4\n"))
    assert (cfg.MODEL.FCOS.NUM_CLASSES, cfg.MODEL.FCOS.NORM, cfg.SOLVER.BASE_LR) == (4, "", 0.5)
    merge_overrides(cfg, ["MODEL.FCOS.NUM_CLASSES", "5", "INPUT.MIN_SIZE_TRAIN", "(240,320)", "SOLVER.BASE_LR", "1e-3"])
    assert (cfg.MODEL.FCOS.NUM_CLASSES, cfg.INPUT.MIN_SIZE_TRAIN, cfg.SOLVER.BASE_LR) == (5, (240, 320), 0.001)
    assert cfg.MODEL.FCOS.NORM == ""


SAVED_LAZY_CONFIG = "dataloader:\n  a: 1\nlr_multiplier: 1\nmodel:\n  b: 2\noptimizer: 1\ntrain: {}\n"
"""As a training from a LazyConfig writes it."""


def test_lazy_configs_are_told_from_yaml_configs(write, tmp_path):
    assert is_lazy("configs/mine.py")
    assert is_lazy(write(SAVED_LAZY_CONFIG))
    assert not is_lazy(find_config("COCO-Detection/fcos_R_50_FPN_1x.yaml"))
    assert not is_lazy(tmp_path / "missing.yaml")


@pytest.mark.parametrize("name", ["lazy/fcos_R_50_FPN_1x.py", "COCO-Detection/retinanet_R_50_FPN_1x.py", "saved.yaml"])
def test_a_lazy_config_is_refused_by_what_reads_yaml(write, name):
    path = write(SAVED_LAZY_CONFIG, name) if name == "saved.yaml" else find_config(name)
    with pytest.raises(UserError, match=r"is a LazyConfig, which only `fcos-rpn train` reads"):
        read_config(path)


def test_the_config_that_a_run_saves_merges_again(cfg, write):
    cfg.DATASETS.TRAIN_FOLDERS = [["images", "instances.json"]]
    again = get_cfg()
    add_fcos_config(again)
    merge_file(again, write(cfg.dump()))
    # Not the nodes: tuples within tuples come back as lists, which are as good.
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


@pytest.mark.parametrize(
    ("line", "override", "message"),
    [
        (
            "NUM_CLASES: 3",
            "FCOS.NUM_CLASES 3",
            "there is no config key MODEL.FCOS.NUM_CLASES. Did you mean MODEL.FCOS.NUM_CL",
        ),
        ("PRIOR_PROB: 1", "FCOS.PRIOR_PROB 1", "MODEL.FCOS.PRIOR_PROB is a float and wants a point: 1.0, not 1"),
        ("NUM_CLASSES: many", "FCOS.NUM_CLASSES many", "for config key: MODEL.FCOS.NUM_CLASSES"),
        (
            "",
            "FCOS 3",
            "MODEL.FCOS is a group of keys and has no value; set its members, such as MODEL.FCOS.NUM_CLASSES",
        ),
    ],
)
def test_a_mistake_is_named_in_one_line_in_a_file_and_on_the_command_line(cfg, write, line, override, message):
    path = write(f"VERSION: 2\nMODEL:\n  FCOS:\n    {line}\n")
    of_file = error_of_file(cfg, path)
    with pytest.raises(UserError) as error:
        merge_overrides(cfg, f"MODEL.{override}".split())
    for found, source in ((of_file, f"config file {path}"), (str(error.value), "command line")):
        assert found.startswith(f"{source}: ")
        assert message in found
        assert "\n" not in found


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("0815 1", r"command line: there is no config key 0815\.$"),
        ("MODEL.FCOS.SIZES_OF_INTEREST {[]:1}", "command line: "),
        ("SEED 1 SOLVER.BASE_LR", r".*not KEY VALUE pairs: SEED 1 SOLVER\.BASE_LR$"),
    ],
)
def test_mistakes_in_overrides(cfg, overrides, message):
    with pytest.raises(UserError, match=f"^{message}"):
        merge_overrides(cfg, overrides.split())


def test_missing_files_are_named(cfg, write, tmp_path):
    assert error_of_file(cfg, tmp_path / "nothing.yaml") == f"no config file {tmp_path / 'nothing.yaml'}"
    message = error_of_file(cfg, write("_BASE_: nothing.yaml\n"))
    assert message.startswith(f"cannot read config file {tmp_path / 'mine.yaml'}: ")
    assert str(tmp_path / "nothing.yaml") in message


@pytest.mark.parametrize(
    "content",
    [
        *("MODEL: [1, 2\n", b"\xff\xfe\x00\x81", "", "5\n", "a\n", "- a\n"),
        *("VERSION: two\n", "VERSION: 9\n", "1: 2\n", "_BASE_: 5\n", "_BASE_: {a: b}\n", "_BASE_: [3]\n"),
        *("SEED: 2001-99-99\n", "SEED: !!bool maybe\n", "SEED: !!int ''\n", "SEED: !!timestamp x\n", "? [1]\n: 2\n"),
        *("MODEL: &a {FCOS: *a}\n", "MODEL: &a {X: *a}\n", f"SEED: {'[' * 5000}\n", f"SEED: {'9' * 5000}\n"),
        "_BASE_: mine.yaml\n",
    ],
    ids=[
        *("broken", "binary", "empty", "number", "text", "list", "version in words", "later version", "number as key"),
        *("number as base", "pair as base", "number among bases", "no date", "no boolean", "no number", "no time"),
        *("list as key", "group within itself", "unknown group within itself", "deep", "long number"),
        "base that leads back",
    ],
)
def test_what_is_no_config_ends_in_a_message_that_names_the_file(cfg, write, content):
    path = write(content)
    assert f"config file {path}" in error_of_file(cfg, path)


def test_key_that_is_a_value_in_the_base_cannot_become_a_group(cfg, write):
    write("MODEL:\n  FCOS:\n    NUM_CLASSES: 3\n", "base.yaml")
    path = write("_BASE_: base.yaml\nMODEL:\n  FCOS:\n    NUM_CLASSES:\n      CATS: 1\n")
    assert "NUM_CLASSES" in error_of_file(cfg, path)


CODE = {
    "apply": "!!python/object/apply:os.mkdir ['{}']",
    "new": "!!python/object/new:os.mkdir ['{}']",
    "name": "!!python/name:os.mkdir",
    "module": "!!python/module:antigravity",
    "state": "!!python/object/new:type {{args: [x, [], {{extend: !!python/name:os.mkdir }}], listitems: '{}'}}",
}
"""Ways of YAML to a function; {} is a folder to make."""


@pytest.mark.parametrize("is_base", [False, True])
@pytest.mark.parametrize("code", CODE.values(), ids=CODE)
def test_code_in_a_file_is_not_executed(cfg, write, tmp_path, code, is_base):
    path = write(f"OUTPUT_DIR: {code.format(tmp_path / 'trap')}\n")
    if is_base:
        path = write("_BASE_: mine.yaml\nSEED: 1\n", "child.yaml")
    assert error_of_file(cfg, path).startswith(f"cannot read config file {path}: ")
    assert not (tmp_path / "trap").exists()


def test_code_in_an_override_is_not_executed(cfg, tmp_path):
    merge_overrides(cfg, ["OUTPUT_DIR", f"!!python/object/apply:os.mkdir ['{tmp_path / 'trap'}']"])
    assert cfg.OUTPUT_DIR.startswith("!!python")  # a name like any other
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["COCO-Detection/fcos_R_50_FPN_1x.yaml", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"])
def test_configs_by_name(name):
    path = find_config(name)
    assert path.is_file()
    assert read_config(path, ["MODEL.FCOS.NUM_CONVS", "1"]).MODEL.FCOS.NUM_CONVS == 1


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("VERSION: 2\n")
    assert find_config("mine.yaml").resolve() == tmp_path / "mine.yaml"
    with pytest.raises(UserError, match=r"no config file other\.yaml, and neither"):
        find_config("other.yaml")


def test_only_detectron2s_own_configs_may_hold_code(tmp_path):
    own = tmp_path / "own.yaml"
    base = find_config(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")).parents[1]
    own.write_text((base / "Base-RetinaNet.yaml").read_text())
    with pytest.raises(UserError, match="cannot read config file"):
        read_config(own, [])


@pytest.mark.parametrize("key", PARTS)
def test_parts_that_nobody_registered_are_named(tmp_path, key):
    (tmp_path / "mine.yaml").write_text("VERSION: 2\n")
    with pytest.raises(UserError, match=rf"^{key}: there is no 'Mine'; registered are \w+"):
        read_config(tmp_path / "mine.yaml", [key, "Mine"])
