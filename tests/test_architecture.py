"""What may import what, read from the source: the rooms of the package, and the floors of `modeling`."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = {
    "errors": 0,
    "config": 1,
    "data": 1,
    "modeling": 1,
    "analysis": 2,
    "checkpoint": 2,
    "evaluation": 2,
    "export": 2,
    "model_zoo": 2,
    "engine": 3,
    "visualization": 3,
    "predictor": 4,
    "": 5,  # the package's own __init__
    "commands": 6,
}
"""A room imports rooms of lower floors only, so there is no circle. A new package or loose module gets its floor
here."""

MODELING = {
    "backbones.probe": 0,
    "deformable": 0,
    "focal_loss": 0,
    "geometry": 0,
    "keys": 0,
    "optimize": 0,
    "rpn_head": 0,
    "assigner": 1,
    "backbones.timm": 1,
    "backbones.torchvision": 1,
    "head": 1,
    "backbones.fpn": 2,
    "losses": 2,
    "postprocess": 2,
    "backbones": 3,
    "training_log": 3,
    "core": 4,
    "meta_arch": 5,
    "proposal_generator": 5,
    "find": 6,
    "rcnn": 6,
    "tta": 6,
}
"""The same for the modules of `modeling`. A new module gets its floor here."""


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in sorted((ROOT / "fcos_rpn").rglob("*.py"))}


def imported_modules(path: Path) -> Iterator[str]:
    """Full dotted names; `from x import y` gives `x.y` where that is a module of this package."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module


def own_imports(name: str) -> list[str]:
    return [module for module in imported_modules(MODULES[name]) if module.split(".")[0] == "fcos_rpn"]


def room_of(name: str) -> str:
    return name.partition(".")[2].partition(".")[0]


def test_every_room_and_every_module_of_modeling_has_a_floor():
    assert {room_of(name) for name in MODULES} == ROOMS.keys()
    prefix = "fcos_rpn.modeling."
    assert {name.removeprefix(prefix) for name in MODULES if name.startswith(prefix)} == MODELING.keys()


@pytest.mark.parametrize("name", MODULES)
def test_rooms_import_lower_rooms(name):
    room = room_of(name)
    for imported in own_imports(name):
        other = room_of(imported)
        assert other == room or ROOMS[other] < ROOMS[room], f"{name} imports {imported}"


@pytest.mark.parametrize("module", MODELING)
def test_modeling_imports_lower_floors_and_no_other_room_but_errors(module):
    for imported in own_imports(f"fcos_rpn.modeling.{module}"):
        below = imported.removeprefix("fcos_rpn.modeling.")
        assert imported == "fcos_rpn.errors" or MODELING[below] < MODELING[module], f"{module} imports {imported}"


def test_base_names_are_rarely_used_twice():
    names = Counter(name.rpartition(".")[2] for name in MODULES)
    # COCO's format is read by data and written by evaluation; R-CNNs are built by modeling and exported by export.
    assert {name for name, count in names.items() if count > 1} <= {"coco", "rcnn"}


def test_the_package_imports_neither_dev_nor_tools_nor_tests():
    for path in MODULES.values():
        assert not {module.split(".")[0] for module in imported_modules(path)} & {"dev", "tools", "tests"}, path


def test_setup_imports_the_standard_library_only():
    assert {module.split(".")[0] for module in imported_modules(ROOT / "setup.py")} == {"pathlib", "setuptools"}
