"""The package's imports and sizes, read from its source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fcos_rpn"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}

FLOORS = {
    "geometry": 0,
    "deformable": 0,
    "focal_loss": 0,
    "rpn_head": 0,
    "optimize": 0,
    "keys": 0,
    "probe": 0,
    "torchvision": 1,
    "timm": 1,
    "fpn": 2,
    "head": 1,
    "assigner": 1,
    "postprocess": 2,
    "losses": 2,
    "training_log": 3,
    "core": 4,
    "meta_arch": 5,
    "proposal_generator": 5,
    "rcnn": 6,
    "tta": 6,
    "find": 6,
}
"""A module of `modeling` imports those of lower floors only. A new module gets its floor here."""


def imported_modules(path: Path) -> Iterator[str]:
    """Full dotted names; `from x import y` gives `x.y` where that is a module of this package."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                is_module = f"{module}.{alias.name}" in MODULES or f"{module}.{alias.name}.__init__" in MODULES
                yield f"{module}.{alias.name}" if is_module else module


def own_imports(name: str) -> set[str]:
    return {module for module in imported_modules(MODULES[name]) if module.split(".")[0] == "fcos_rpn"}


def test_imports_are_read_in_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "fcos_rpn" / "modeling").mkdir(parents=True)
    path = tmp_path / "fcos_rpn" / "modeling" / "new.py"
    path.write_text(
        "import torch.nn, fcos_rpn.data\n"
        "from fcos_rpn.modeling import head\n"
        "from . import core\n"
        "from .geometry import Locations\n"
        "from ..errors import UserError\n"
        "from .. import data\n"
        "def late():\n    from .losses import FCOSLosses\n"
    )
    assert sorted(imported_modules(path)) == [
        "fcos_rpn.data",
        "fcos_rpn.data",
        "fcos_rpn.errors",
        "fcos_rpn.modeling.core",
        "fcos_rpn.modeling.geometry",
        "fcos_rpn.modeling.head",
        "fcos_rpn.modeling.losses",
        "torch.nn",
    ]


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("fcos_rpn.modeling.")])
def test_modeling_imports_lower_floors_and_no_wing(name):
    module = name.rpartition(".")[2]
    for imported in own_imports(name):
        if imported == "fcos_rpn.errors":
            continue
        assert imported.startswith("fcos_rpn.modeling."), f"{name} imports {imported}, which is a wing"
        floor = FLOORS.get(module, len(FLOORS))  # a package's __init__ is above all of its modules
        assert FLOORS[imported.rpartition(".")[2]] < floor, f"{name} imports {imported}, which is not below it"


def test_every_floor_is_of_a_module():
    present = {name.rpartition(".")[2] for name in MODULES if name.startswith("fcos_rpn.modeling.")} - {"__init__"}
    assert present == FLOORS.keys()


@pytest.mark.parametrize("path", [ROOT / "setup.py", *MODULES.values()], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_the_tools_or_the_tests(path):
    assert not {module.split(".")[0] for module in imported_modules(path)} & {"tools", "tests"}


def test_setup_imports_the_standard_library_only():
    assert {module.split(".")[0] for module in imported_modules(ROOT / "setup.py")} == {"pathlib", "setuptools"}
