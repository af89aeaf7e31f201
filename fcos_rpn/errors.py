"""The one exception for mistakes that users can mend, how commands end on it, and files that are never half-written."""

import contextlib
import sys
from collections.abc import Collection, Iterator
from pathlib import Path


class UserError(ValueError):
    """Says what is wrong, where (file, image id, annotation id, key), and what to do."""


def install_hint(extra: str) -> str:
    """The end of a message about a package that is missing: how to get it with an extra of this package."""
    return f"pip install '.[{extra}]' in the checkout of fcos_rpn"


class ArgumentError(UserError):
    """Says which argument is wrong, by the name that the function that takes it has for it."""

    def __init__(self, argument: str, problem: str) -> None:
        """The message is both in one sentence, such as `norm` and `must be one of "GN", "BN", not "LN"`."""
        super().__init__(argument, problem)
        self.argument = argument

    def __str__(self) -> str:
        return " ".join(self.args)


def require_one_of(argument: str, value: str, choices: Collection[str]) -> None:
    """Require a value to be one of the choices.

    Args:
        argument: what the caller calls the value: the name of an argument, or of an option or a key.

    Raises:
        ArgumentError: if it is none of them.
    """
    if value not in choices:
        raise ArgumentError(argument, f"must be one of {', '.join(map(repr, choices))}, not {value!r}")


def make_folder(folder: Path) -> None:
    """
    Raises:
        UserError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made or written ({error.strerror})") from error


def user_message(error: UserError) -> str:
    """The message alone: a worker of a `DataLoader` raises its exceptions with the worker's traceback wrapped
    around it."""
    message = str(error)
    if not message.startswith(f"Caught {UserError.__name__} in "):
        return message
    return message.rpartition(f"\n{UserError.__module__}.{UserError.__qualname__}: ")[2].rstrip("\n")


@contextlib.contextmanager
def user_errors_as_messages(*, when_stopped: str = "stopped") -> Iterator[None]:
    """A mistake of the user, or an interruption, ends the process with one message and no traceback."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {user_message(error)}")
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        sys.exit(
            f"error: {str(error).splitlines()[0]}\nA process that loads images has ended, most often for lack of "
            "memory: lower DATALOADER.NUM_WORKERS, and go on from the last checkpoint with --resume"
        )
    except KeyboardInterrupt:
        sys.exit(f"\n{when_stopped}")
