import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg

from fcos_rpn import add_fcos_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = sorted(DOCS.glob("*.md"))
HAVE_NO_PARSER = ("compare_torchvision", "quickstart")  # to be had without running them


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


def blocks(text: str) -> list[str]:
    """What stands between fences, but Python."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in fenced if not language]


def tool_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Tool and arguments of each, by its file or by what the document lets stand for it."""
    aliases = dict(re.findall(r"`(\w+)`\s+stands\s+for\s+`\.venv/bin/python\s+tools/(\w+)\.py`", text))
    aliases |= dict(re.findall(r"`(\w+)`\s+for\s+`\.venv/bin/python\s+tools/(\w+)\.py`", text))
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\S+=\S+ )*(?:\S*python )?tools/(\w+)\.py ?(.*)", line)
            name, arguments = found.groups() if found else line.partition(" ")[::2]
            tool = name if found else aliases.get(name)
            if tool:
                yield tool, shlex.split(arguments, comments=True)


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "README.md"], ids=lambda path: path.name)
def test_tools_understand_the_commands(document):
    """That nothing is said that a tool does not know; whether it runs is another question."""
    for name, arguments in tool_commands(document.read_text(encoding="utf-8")):
        assert (TOOLS / f"{name}.py").is_file(), name
        if name in HAVE_NO_PARSER:
            continue
        assert is_understood(name, arguments), f"{name} {arguments}"


def is_understood(name: str, arguments: list[str]) -> bool:
    parser = load_tool(name).build_argument_parser()
    try:
        parser.parse_intermixed_args(arguments) if name == "convert_checkpoint" else parser.parse_args(arguments)
    except SystemExit as stop:
        return stop.code == 0  # of --help
    return True


def test_the_commands_of_documents_are_found():
    """So that a change of style does not switch off the tests above and below."""
    found = {document.name: [*tool_commands(document.read_text(encoding="utf-8"))] for document in DOCUMENTS}
    assert {name for name, commands in found.items() if not commands} <= {"config.md", "faq.md", "paper.md"}
    assert sum(map(len, found.values())) > 50


MARK = re.compile(r"\brun (by hand|in (a )?tests?)|\brun by us|\bnot run\b|\btest runs\b|\btested\b", re.IGNORECASE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_said_to_run_in_a_test_or_by_hand_or_not(document):
    """In its section, or before the first one for all of the document."""
    sections = re.split(r"^#{2,3} ", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    unmarked = [section.splitlines()[0] for section in sections if blocks(section) and not MARK.search(section)]
    assert MARK.search(sections[0]) or not unmarked, f"no word on whether these commands run: {unmarked}"


def test_named_tests_exist():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"^def (test_\w+)\(", code, re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"\btest_\w+\b(?!\.py)", document.read_text(encoding="utf-8"))
        assert not set(named) - known, document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document):
    text = document.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.])((?:tests|tools|fcos_rpn)/[\w/.-]*\w|configs/[\w/.-]+\.(?:py|yaml))", text):
        if not path.endswith("/CONFIG.yaml"):
            assert (ROOT / path).exists() or list(ROOT.glob(f"{path}*")), path


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "README.md"], ids=lambda path: path.name)
def test_extras_are_installed_from_a_checkout(document):
    """No package index has this package."""
    text = document.read_text(encoding="utf-8")
    assert "fcos_rpn[" not in text
