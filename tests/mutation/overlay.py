"""Imports a module from a file elsewhere, as if it lay in its place. Only the standard library, and no relative import:
processes that tests start run this file by its path."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

SITE = """import runpy
runpy.run_path({overlay!r})["install"]({name!r}, {origin!r}, {source!r})
"""


class Overlay(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads one module; nothing of it is cached on the disk."""

    def __init__(self, name: str, origin: str, source: str) -> None:
        """
        Args:
            name: of the module, dotted.
            origin: the file that it stands for; a package's is not supported.
            source: the file that is run.
        """
        self.name, self.origin, self.source = name, origin, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.origin, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(Path(self.source).read_text(encoding="utf-8"), self.origin, "exec"), module.__dict__)


def install(name: str, origin: str, source: str) -> None:
    """In this process."""
    sys.meta_path.insert(0, Overlay(name, origin, source))


def write_site(folder: Path, name: str, origin: str, source: str) -> None:
    """For a process that starts with this folder in PYTHONPATH."""
    text = SITE.format(overlay=str(Path(__file__).resolve()), name=name, origin=origin, source=source)
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
