"""COCO's json files as splits, and back."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError, write_whole
from ..coco.annotations import load_annotations
from .splits import Split


def read_coco(json_files: Sequence[Path], images: Sequence[Path]) -> list[Split]:
    """Read json files as checked and repaired for training.

    Args:
        json_files: the name of each says its split: train, val or test.
        images: the folder of each.

    Raises:
        UserError: a json has errors, its name says no split or that of another, or the classes differ.
    """
    splits: list[Split] = []
    for file, folder in zip(json_files, images, strict=True):
        found = re.search("train|val|test", file.stem)
        if found is None or found.group() in [split.name for split in splits]:
            raise UserError(f"{file}: its name must say which split it is; call it train.json, val.json or test.json")
        splits.append(Split(found.group(), folder, load_annotations(file, folder).content))
        if _class_names(splits[-1]) != _class_names(splits[0]):
            raise UserError(
                f"{file}: has the classes {', '.join(_class_names(splits[-1]))}, but {json_files[0]} has "
                f"{', '.join(_class_names(splits[0]))}; give both the same in the same order of ids"
            )
    return splits


def write_coco(split: Split, folder: Path) -> Path:
    """Write a split as NAME.json, and return its path."""
    json_file = folder / f"{split.name}.json"
    with write_whole(json_file) as file:
        file.write(json.dumps(split.content, ensure_ascii=False).encode())
    return json_file


def _class_names(split: Split) -> list[str]:
    return [category["name"] for category in sorted(split.content["categories"], key=lambda category: category["id"])]
