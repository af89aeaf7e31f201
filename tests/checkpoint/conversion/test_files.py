import pytest
import torch
import yaml
from detectron2.config import CfgNode

from fcos_rpn.checkpoint.conversion import config_text

WEIGHTS = {"head.bias": torch.arange(3.0), "head.weight": torch.ones(2, 2)}


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
