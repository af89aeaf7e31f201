import re
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from fcos_rpn import add_fcos_config

DOCS = Path(__file__).parent.parent / "docs"


def flatten(node, prefix=""):
    flat = {}
    for name, value in node.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {f"{prefix}{name}": value})
    return flat


def test_the_table_of_config_keys_is_that_of_the_code():
    stock, ours = get_cfg(), get_cfg()
    add_fcos_config(ours)
    added = {key: repr(value) for key, value in flatten(ours).items() if key not in flatten(stock)}
    documented = dict(re.findall(r"^\| `([A-Z0-9_.]+)` \| `(.*?)` \|", (DOCS / "config.md").read_text(), re.MULTILINE))
    assert documented == added
