"""One set of pictures with its annotations, between two formats."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError

PICTURES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Suffixes of pictures, in lower case."""


class Split(NamedTuple):
    """A set, such as the one to train on."""

    name: str
    images: Path
    """The folder that the `file_name`s are relative to."""
    content: dict[str, Any]
    """COCO's dictionary. The order of the categories' ids is that of the classes."""


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder and its subfolders, sorted.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of images; correct the path")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise UserError(f"{folder}: holds no pictures ({', '.join(sorted(PICTURES))}); correct the path")
    return files


def as_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": i, "name": name} for i, name in enumerate(names, 1)]


def common_folder(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([file.parent for file in files]))
