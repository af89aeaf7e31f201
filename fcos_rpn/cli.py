"""What the command-line tools share: config and class names from files or names, a folder to write to, how they end."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import CfgNode, get_cfg

from . import model_zoo
from .config import add_fcos_config, merge_file, merge_overrides
from .data import class_names, user_message
from .errors import UserError
from .prepare import require_registered_parts


def find_config(name: str) -> Path:
    """A file, or one of this package's or Detectron2's configs by name.

    Raises:
        UserError: if there is none.
    """
    if Path(name).is_file():
        return Path(name)
    with contextlib.suppress(UserError):
        return Path(model_zoo.get_config_file(name))
    with contextlib.suppress(RuntimeError):
        return Path(detectron2_model_zoo.get_config_file(name))
    raise UserError(f"no config file {name}, and neither this package nor Detectron2 has one of that name")


def read_config(path: Path, overrides: Sequence[str]) -> CfgNode:
    """A config file with the command line's KEY VALUE pairs.

    Raises:
        UserError: on a wrong key, type or name.
    """
    cfg = get_cfg()
    add_fcos_config(cfg)
    if Path(detectron2_model_zoo.__file__).resolve().parent in path.resolve().parents:
        # Its RetinaNet's holds code, which merge_file refuses; it is as safe as Detectron2 itself.
        cfg.merge_from_file(str(path), allow_unsafe=True)
    else:
        merge_file(cfg, path)
    merge_overrides(cfg, overrides)
    require_registered_parts(cfg)
    return cfg


def add_class_name_arguments(parser: argparse.ArgumentParser, *, default: str) -> None:
    """For `given_class_names`; the default is for the help, in words."""
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help=f"a text file with a name on each line, or a json in COCO's format; default: {default}",
    )
    names.add_argument("--dataset", metavar="NAME", help="a registered data set whose class names to take")


def given_class_names(args: argparse.Namespace) -> list[str] | None:
    """Those of `--class-names` or `--dataset`, the position is the label; None without either.

    Raises:
        UserError: if the file cannot be read or holds no names, or there is no such data set.
    """
    if args.dataset:
        return class_names([args.dataset])
    return _read_class_names(args.class_names) if args.class_names else None


def _read_class_names(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            categories = sorted(json.loads(text)["categories"], key=lambda category: category["id"])
            names = [str(category["name"]) for category in categories]
        else:
            names = [line.strip() for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"--class-names {file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--class-names {file}: neither text with a name on each line nor a json in COCO's format ({error!r})"
        ) from error
    if not names:
        raise UserError(f"--class-names {file}: there is no name in it")
    return names


def make_folder(folder: Path) -> None:
    """
    Raises:
        UserError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made or written ({error.strerror})") from error


@contextlib.contextmanager
def user_errors_as_messages(*, when_stopped: str = "stopped") -> Iterator[None]:
    """A mistake of the user, or an interruption, ends the process with one message and no traceback."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {user_message(error)}")
    except KeyboardInterrupt:
        sys.exit(f"\n{when_stopped}")
