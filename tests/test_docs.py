import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from detectron2.config import get_cfg

from fcos_rpn import add_fcos_config
from fcos_rpn.commands import COMMANDS
from fcos_rpn.config import flatten

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def test_the_table_of_config_keys_is_that_of_the_code():
    stock, ours = get_cfg(), get_cfg()
    add_fcos_config(ours)
    added = {key: repr(value) for key, value in flatten(ours).items() if key not in flatten(stock)}
    documented = dict(re.findall(r"^\| `([A-Z0-9_.]+)` \| `(.*?)` \|", (DOCS / "config.md").read_text(), re.MULTILINE))
    assert documented == added


def blocks(text: str, language: str) -> list[str]:
    """Find the fenced blocks of a language; commands have none."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[tuple[ModuleType, list[str]]]:
    """Yield the module and the arguments of each command in a text's blocks."""
    for block in blocks(text, ""):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(
                r"(?:\w+=\S+ )*(?:fcos-rpn ([a-z]\S*)|python -m (dev\.\S+)|torchrun .*tools/(\w+)\.py)(.*)", line
            )
            if found:
                command, developers, tool, arguments = found.groups()
                name = developers or f"fcos_rpn.commands.{tool or COMMANDS[command][0]}"
                module = importlib.import_module(name)
                if hasattr(module, "__path__"):  # `python -m` of a package
                    module = importlib.import_module(f"{name}.__main__")
                yield module, shlex.split(arguments, comments=True)


def is_understood(module: ModuleType, arguments: list[str]) -> bool:
    parser = module.build_argument_parser()
    parse = parser.parse_intermixed_args if module.__name__.endswith("convert_checkpoint") else parser.parse_args
    try:
        parse(arguments)
    except SystemExit as stop:
        return stop.code == 0  # of --help
    return True


@each_document
def test_commands_are_understood_by_their_parsers(document):
    """Whether they also run is another question."""
    for module, arguments in commands(document.read_text(encoding="utf-8")):
        if hasattr(module, "build_argument_parser"):
            assert is_understood(module, arguments), f"{module.__name__} {arguments}"


def test_commands_are_found():
    """A change of style in the documents must not switch off the test above."""
    assert sum(len([*commands(document.read_text(encoding="utf-8"))]) for document in DOCUMENTS) > 50


@each_document
def test_named_commands_exist(document):
    """In sentences, too."""
    text = document.read_text(encoding="utf-8")
    assert {*re.findall(r"fcos-rpn ([a-z][a-z-]*)", text)} <= COMMANDS.keys()
    for module in re.findall(r"python -m (dev\.[\w.]*\w)", text):
        assert find_spec(module), module


@each_document
def test_named_files_exist(document):
    text = document.read_text(encoding="utf-8")
    if document.name == "CHANGELOG.md":
        text = text.partition("\n## 0")[0]  # releases name the files of their time
    for path in re.findall(r"(?<![\w/.])((?:tests|tools|fcos_rpn|dev)/[\w/.-]*\w|configs/[\w/.-]+\.(?:py|yaml))", text):
        if not {"CONFIG", "ROOM"} & {*re.split("[/.]", path)}:  # placeholders
            assert (ROOT / path).exists() or list(ROOT.glob(f"{path}*")), path


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_links_lead_somewhere(document):
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8")):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


@each_document
def test_snippets_import_what_exists(document):
    for block in blocks(document.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fcos_rpn"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


@each_document
def test_extras_are_installed_from_a_checkout(document):
    """No package index has this package."""
    assert "fcos_rpn[" not in document.read_text(encoding="utf-8")
