"""Applies a table of names so that no weight of the source is lost in silence.

A template such as `layer{stage}.{block}.conv1.weight` matches all keys with a word in the place of each field.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UserError

FIELDS = {
    "part": "weight|bias",
    "statistic": "weight|bias|running_mean|running_var",
    "module": ".+",
}
"""Field -> regular expression of its words; all other fields are numbers."""


@dataclass(frozen=True)
class Rename:
    """Rename a key."""

    source: str
    """Template."""
    target: str
    """Template with the same fields."""
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Field -> word in the source -> word in the target; other fields keep their words."""
    change: Callable[[Tensor], Tensor] | None = None
    """Applied to the value."""


@dataclass(frozen=True)
class Stack:
    """Stack the scalars of all levels into one vector."""

    source: str
    """Template with the one field `{level}`, from 0."""
    target: str


@dataclass(frozen=True)
class Drop:
    """Drop a key that no model here needs."""

    source: str
    """Template."""
    reason: str


@dataclass(frozen=True)
class Fill:
    """Fill a key that the source does not have."""

    target: str
    value: float
    reason: str


Rule = Rename | Stack | Drop


class Named(NamedTuple):
    """Weights under other names."""

    weights: dict[str, Tensor]
    origins: dict[str, list[str]]
    """Key -> the source's keys that it comes from."""
    dropped: dict[str, str]
    """Key of the source -> why it is not used."""


def keep(template: str) -> Rename:
    """Make a rule for keys that have the same name on both sides."""
    return Rename(template, template)


def apply_rules(weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> Named:
    """Rename or drop every key by the first rule that fits it.

    Raises:
        UserError: if no rule fits a key, two keys become one, or a level lacks its number.
    """
    patterns = [(_pattern(rule), rule) for rule in rules]
    named = Named({}, {}, {})
    levels: dict[str, dict[int, str]] = {}
    unknown = []
    for key, value in weights.items():
        rule, fields = _first_fitting(key, patterns)
        match rule:
            case None:
                unknown.append(key)
            case Drop(reason=reason):
                named.dropped[key] = reason
            case Stack(target=target):
                levels.setdefault(target, {})[int(fields["level"])] = key
            case Rename(target=target, words=words, change=change):
                translated = {name: words.get(name, {}).get(word, word) for name, word in fields.items()}
                _add(named, target.format(**translated), value if change is None else change(value), [key])
    if unknown:
        raise UserError(
            f"{len(unknown)} of the checkpoint's {len(weights)} weights have names that the table does not know, among "
            f"them {', '.join(unknown[:5])}. Is it from another source, or has it another backbone or head?"
        )
    for target, keys in levels.items():
        if sorted(keys) != list(range(len(keys))):
            raise UserError(f"{target}: the checkpoint has only the levels {', '.join(sorted(keys.values()))}")
        ordered = [keys[level] for level in sorted(keys)]
        _add(named, target, torch.stack([weights[key].reshape(()) for key in ordered]), ordered)
    return named


def _add(named: Named, key: str, value: Tensor, origins: list[str]) -> None:
    if key in named.weights:
        raise UserError(f"{', '.join(named.origins[key])} and {', '.join(origins)} of the checkpoint are both {key}")
    named.weights[key] = value
    named.origins[key] = origins


def _first_fitting(key: str, patterns: Sequence[tuple[re.Pattern[str], Rule]]) -> tuple[Rule | None, dict[str, str]]:
    """Find the first rule that fits a key, and the key's words for its fields."""
    for pattern, rule in patterns:
        if found := pattern.fullmatch(key):
            return rule, found.groupdict()
    return None, {}


def _pattern(rule: Rule) -> re.Pattern[str]:
    """Compile the template of a rule; groups are its fields."""
    pieces = re.split(r"\{(\w+)\}", rule.source)  # text, field, text, field, ..., text
    for number in range(1, len(pieces), 2):
        name = pieces[number]
        own_words = rule.words.get(name) if isinstance(rule, Rename) else None
        words = "|".join(map(re.escape, own_words)) if own_words else FIELDS.get(name, r"\d+")
        pieces[number] = f"(?P<{name}>{words})"
    pieces[::2] = map(re.escape, pieces[::2])
    return re.compile("".join(pieces))
