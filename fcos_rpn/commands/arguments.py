"""Command-line arguments that several commands take."""

import argparse
import json
from pathlib import Path

from ..data import class_names
from ..errors import UserError


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
