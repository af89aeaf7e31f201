"""The one exception for mistakes that users can mend, how commands end on it, and files that are never half-written."""

import contextlib
import errno
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


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


PARTIAL = ".partial"
"""End of the temporary name of a file that is being written."""


@contextlib.contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file under a temporary name, and rename it once it is whole.

    A reader never sees half a file, and several processes may write the same one. On an error the temporary file is
    removed and an earlier file of this name stays. The folder is made if it is missing.

    Raises:
        UserError: if the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    partial = Path(f"{path}.{uuid4().hex}{PARTIAL}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save answers the file's error with a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or str(cause)
        raise UserError(f"{path}: cannot be written ({reason}); make room or name another folder") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def user_message(error: UserError) -> str:
    """The message alone: a worker of a `DataLoader` raises its exceptions with the worker's traceback wrapped
    around it."""
    message = str(error)
    if not message.startswith(f"Caught {UserError.__name__} in "):
        return message
    return message.rpartition(f"\n{UserError.__module__}.{UserError.__qualname__}: ")[2].rstrip("\n")


def is_death_of_a_worker(error: BaseException) -> bool:
    """Whether a process that loads images has been killed, which the user has to mend."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


@contextlib.contextmanager
def user_errors_as_messages(*, when_stopped: str = "stopped") -> Iterator[None]:
    """A mistake of the user, or an interruption, ends the process with one message and no traceback."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {user_message(error)}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Closing a log on a full disk fails, too, while the first error is on its way.
        first = error.__context__ if isinstance(error.__context__, UserError) else error
        sys.exit(f"error: {first}")
    except RuntimeError as error:
        if not is_death_of_a_worker(error):
            raise
        sys.exit(
            f"error: {str(error).splitlines()[0]}\nA process that loads images has ended, most often for lack of "
            "memory: lower DATALOADER.NUM_WORKERS, and go on from the last checkpoint with --resume"
        )
    except KeyboardInterrupt:
        sys.exit(f"\n{when_stopped}")
