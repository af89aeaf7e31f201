"""The one exception for mistakes that the user can repair; the tools print it without a traceback."""

from collections.abc import Collection


class UserError(ValueError):
    """Says what is wrong, where (file, image id, annotation id, key), and what to do."""


def install_hint(extra: str) -> str:
    """The end of a message about a package that is missing: how to get it with an extra of this package."""
    return f"pip install '.[{extra}]' in the checkout of fcos_rpn"


def require_one_of(key: str, value: str, choices: Collection[str]) -> None:
    """
    Args:
        key: the config key that the value comes from, in full.

    Raises:
        UserError: if the value is none of the choices.
    """
    if value not in choices:
        raise UserError(f"{key} must be one of {', '.join(map(repr, choices))}, not {value!r}")
