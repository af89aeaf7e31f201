"""Says which image files are missing, which are no files, and which are there under nearly that name."""

import os
import unicodedata
from collections.abc import Collection, Iterator
from itertools import takewhile
from operator import eq
from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from .findings import Finding, image_place, some
from .rules import Entry

MAX_NAMES = 10
"""Files that a line names; near names have a pattern, which fewer show."""


def missing_files(missing: Collection[Entry], *, num_images: int, folder: str) -> Iterator[Finding]:
    """Yield one error for each cause why images, of `num_images`, have no file in an absolute folder."""
    if not missing:
        return
    index = _files_by_name(folder)
    outside: list[str] = []
    absent: list[str] = []
    near: dict[str, list[tuple[Entry, str]]] = {}
    no_files: dict[str, list[str]] = {}
    for image in missing:
        name = os.path.normpath(image["file_name"])
        leaves = os.path.isabs(name) or name.split(os.sep)[0] == os.pardir
        if not leaves and (kind := _no_file(os.path.join(folder, name))) is not None:
            what, advice = kind
            no_files.setdefault(advice, []).append(f"{_named(image)} {what}")
            continue
        found = _near_file(image["file_name"], index)
        if found is None:
            (outside if leaves else absent).append(_named(image))
        else:
            near.setdefault(_difference(image["file_name"], found), []).append((image, found))
    for advice, texts in no_files.items():
        text = f"{len(texts)} of {num_images} image files in {folder} are no files: {some(texts)}; {advice}"
        yield Finding("error", "missing file", "", text)
    for cause, pairs in near.items():
        names = [
            f"{image['file_name']!r} ({image_place(image, with_file=False)}) is {found!r}" for image, found in pairs
        ]
        text = (
            f"{len(pairs)} of {num_images} image files are not in {folder}, but there under nearly that name: "
            f"{some(names)}; {cause}"
        )
        yield Finding("error", "missing file", "", text)
    for names, what, advice in (
        (outside, "file names leave the folder", "make them relative to that folder"),
        (absent, "image files are not in", "correct the folder, add the files or delete these images from the json"),
    ):
        if names:
            text = f"{len(names)} of {num_images} {what} {folder}: {some(names, MAX_NAMES)}; {advice}"
            yield Finding("error", "missing file", "", text)


def _named(image: Entry) -> str:
    file_name = image["file_name"]
    shown = repr(file_name) if len(file_name) < 200 else f"{file_name[:100]!r}..."
    return f"{shown} ({image_place(image, with_file=False)})"


def _no_file(path: str) -> tuple[str, str] | None:
    """What is at a path instead of a file, and what to do; None if nothing is there."""
    if os.path.isdir(path):
        return "is a folder", "correct the names in the json"
    if not os.path.exists(path) and os.path.islink(path):
        what = f"is a symbolic link to {os.readlink(path)}, which does not exist"
        return what, "copy the files there (git annex / DVC: get the files first)"
    return ("is no regular file", "put the pictures there") if os.path.exists(path) else None


def _plain(name: str) -> str:
    """What is left of a file's name without folder, case and encoding."""
    return unicodedata.normalize("NFC", unquote(name).replace("\\", "/").strip()).rpartition("/")[2].casefold()


def _files_by_name(folder: str) -> dict[str, list[str]]:
    """Paths of all files below the folder, relative to it, by their plain names with and without extension."""
    index: dict[str, list[str]] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.normpath(os.path.join(os.path.relpath(root, folder), name))
            plain = _plain(name)
            for key in {plain, plain.rpartition(".")[0]}:
                index.setdefault(key, []).append(path)
    return index


def _near_file(file_name: str, index: dict[str, list[str]]) -> str | None:
    """The only file of such a name, or of several the one that shares the most of the path's end."""
    plain = _plain(file_name)
    found = index.get(plain) or index.get(plain.rpartition(".")[0] or plain) if plain else None
    if not found:
        return None
    parts = unquote(file_name).replace("\\", "/").casefold().split("/")[::-1]
    shared = [sum(1 for _ in takewhile(bool, map(eq, parts, path.casefold().split("/")[::-1]))) for path in found]
    best = [path for path, count in zip(found, shared, strict=True) if count == max(shared)]
    return best[0] if len(best) == 1 else None


def _difference(file_name: str, found: str) -> str:
    """What is wrong with a name, and what to do."""
    slashes = file_name.replace("\\", "/")
    if "://" in file_name:
        return "these are addresses in the web; write the names of the files"
    if os.path.isabs(file_name) or PureWindowsPath(file_name).is_absolute():
        return "these are absolute paths of another machine; make them relative to the folder"
    if slashes == found:
        return "write / in place of \\"
    if unquote(file_name) == found:
        return "write the names plainly in place of % and two digits"
    if slashes.strip() == found.strip():
        return "spaces at the ends of the names differ; correct the names in the json, or rename the files"
    if unicodedata.normalize("NFC", file_name) == unicodedata.normalize("NFC", found):
        return "letters with accents are encoded in two ways (Unicode's NFC and NFD); rename the files"
    if slashes.casefold() == found.casefold():
        return "upper and lower case differ; correct the names in the json, or rename the files"
    if PurePosixPath(slashes).name == PurePosixPath(found).name:
        return "the sub-folders differ; give the folder that the names in the json start from, or correct the names"
    if PurePosixPath(slashes).stem.casefold() == PurePosixPath(found).stem.casefold():
        return "the extensions differ; correct the names in the json"
    return "correct the names in the json, or rename the files"
