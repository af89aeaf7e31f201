"""The mutants of a module: changes of its source that change what it does."""

import itertools
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from .operators import Change, changes


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    """Dotted."""
    line: int
    scope: str
    """The function or class, as `Class.method`; empty at the top of the module."""
    before: str
    """The line that is changed, stripped; of several, all of them joined."""
    after: str
    source: str
    """Of the whole module, changed."""

    @property
    def name(self) -> str:
        """Says what is changed in words of the source, so that it outlives changes elsewhere in the module."""
        return f"{self.module}:{self.scope}: {self.before} -> {self.after}"


class StaleList(ValueError):  # noqa: N818
    """The list of equivalent mutants does not fit the source any more."""


def mutants_of(module: str, source: str) -> list[Mutant]:
    """All of them, in the order of the source, with those that mean the same to Python or nothing at all."""
    found: dict[str, Mutant] = {}
    for change in sorted(changes(source)):
        mutant = _mutant(module, source, change)
        found.setdefault(mutant.name, mutant)  # equal lines of one function count once
    return list(found.values())


def means_something_else(mutant: Mutant, original: str) -> bool:
    """Whether it compiles, and to other code."""
    try:
        code = compile(mutant.source, mutant.module, "exec")
    except SyntaxError:
        return False
    return _instructions(code) != _instructions(compile(original, mutant.module, "exec"))


def _mutant(module: str, source: str, change: Change) -> Mutant:
    content = source.encode()
    changed = content[: change.start] + change.replacement.encode() + content[change.end :]
    line_start = content.rfind(b"\n", 0, change.start) + 1
    line_end = content.find(b"\n", change.end) % (len(content) + 1)
    growth = len(changed) - len(content)
    return Mutant(
        module=module,
        line=content.count(b"\n", 0, change.start) + 1,
        scope=change.scope,
        before=_one_line(content[line_start:line_end]),
        after=_one_line(changed[line_start : line_end + growth]),
        source=changed.decode(),
    )


def _one_line(text: bytes) -> str:
    return " ".join(text.decode().split())


def _instructions(code: CodeType) -> tuple[Any, ...]:
    """What code does, whatever the columns that it comes from; constants with their type, since 1 == 1.0 == True."""
    constants = [
        _instructions(constant) if isinstance(constant, CodeType) else (type(constant), repr(constant))
        for constant in code.co_consts
    ]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, tuple(constants)


def choose(mutants: Mapping[str, Sequence[Mutant]], sources: Mapping[str, str], count: int, seed: int) -> list[Mutant]:
    """So many mutants of all modules together, as many of each as its share of the lines; different lines first.

    Args:
        mutants: by module.
        sources: of these modules.
        count: of all; fewer are chosen if modules have fewer.
        seed: another one chooses others.
    """
    num_lines = {module: sources[module].count("\n") for module in mutants}
    total, passed = sum(num_lines.values()), 0
    chosen: list[Mutant] = []
    for module in sorted(mutants):
        # Rounding the running sum, and not each share, keeps their sum.
        first, passed = passed, passed + num_lines[module]
        share = round(count * passed / total) - round(count * first / total)
        shuffled = random.Random(f"{seed} {module}").sample(mutants[module], len(mutants[module]))
        different = (mutant for mutant in _new_lines_first(shuffled) if means_something_else(mutant, sources[module]))
        chosen += sorted(itertools.islice(different, share), key=lambda mutant: mutant.line)
    return chosen


def _new_lines_first(mutants: Sequence[Mutant]) -> list[Mutant]:
    """The first of each line, then the second of each, and so on."""
    num_before: Counter[int] = Counter()
    rounds = []
    for mutant in mutants:
        rounds.append(num_before[mutant.line])
        num_before[mutant.line] += 1
    return [mutants[index] for index in sorted(range(len(mutants)), key=rounds.__getitem__)]


def read_equivalent(file: Path, mutants: Mapping[str, Sequence[Mutant]]) -> dict[str, str]:
    """The reasons of mutants that no test can catch, by `Mutant.name`.

    Raises:
        StaleList: if one of them is none of these mutants, or has no reason.
    """
    names = {mutant.name for of_module in mutants.values() for mutant in of_module}
    reasons: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    if stale := sorted(reasons.keys() - names):
        raise StaleList(
            f"{file}: the source has changed, and these are no mutants of it any more; remove or renew them:\n  "
            + "\n  ".join(stale)
        )
    if unfounded := [name for name, reason in reasons.items() if not reason.strip()]:
        raise StaleList(f"{file}: no reason is given for\n  " + "\n  ".join(unfounded))
    return reasons
