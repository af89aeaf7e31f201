"""The quick-start data set "digits" on disk: scenes of `digits_scene` as jpg files with a COCO-format json."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ...errors import UserError, write_whole
from .scene import HEIGHT, SPLITS, WIDTH, Split, make_scene
from .shapes import KEYPOINTS, keypoints_of, polygon_of

CATEGORIES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GENERATOR = "fcos_rpn.data.digits.folder"
VERSION = 2
"""Raise it with every change of pictures or annotations: data sets of another version are generated anew."""


class DigitsFolder(NamedTuple):
    """Where the two splits lie: image folders and COCO-format json files."""

    train_images: Path
    train_json: Path
    val_images: Path
    val_json: Path


def _info(split: Split, num_images: int, seed: int) -> dict[str, Any]:
    return {
        "description": "handwritten digits on photographs",
        "generator": GENERATOR,
        "version": VERSION,
        "split": split,
        "num_images": num_images,
        "seed": seed,
    }


def _is_complete(folder: Path, split: Split, num_images: int, seed: int) -> bool:
    json_path = folder / f"instances_{split}.json"
    if not json_path.exists():
        return False
    try:
        content = json.loads(json_path.read_text(encoding="utf-8"))
        is_ours = content["info"]["generator"] == GENERATOR
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise UserError(f"{json_path} was not written by the digits generator: move it away or name another folder")
    return content["info"] == _info(split, num_images, seed) and all(
        (folder / split / image["file_name"]).exists() for image in content["images"]
    )


def _write_split(folder: Path, split: Split, num_images: int, seed: int, progress: "tqdm[Any]") -> None:
    json_path = folder / f"instances_{split}.json"
    (folder / split).mkdir(parents=True, exist_ok=True)
    # Pictures of other arguments must never stand beside a json that calls them complete.
    json_path.unlink(missing_ok=True)
    for stale in (folder / split).glob("digits_*.jpg"):
        stale.unlink()

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(num_images):
        scene = make_scene(seed, split, index)
        file_name = f"digits_{index:06d}.jpg"
        scene.image.save(folder / split / file_name, quality=92)
        images.append({"id": index + 1, "file_name": file_name, "width": WIDTH, "height": HEIGHT})
        for digit in scene.digits:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": digit.ink.category_id,
                    "bbox": digit.box,
                    "area": digit.box[2] * digit.box[3],
                    "iscrowd": 0,
                    "segmentation": polygon_of(digit),
                    "keypoints": keypoints_of(digit),
                    "num_keypoints": len(KEYPOINTS),
                }
            )
        progress.update()

    content = {
        "info": _info(split, num_images, seed),
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": category_id, "name": name, "keypoints": KEYPOINTS}
            for category_id, name in enumerate(CATEGORIES, start=1)
        ],
    }
    with write_whole(json_path) as file:
        file.write(json.dumps(content).encode())


def generate_digits(folder: Path, *, num_train: int = 800, num_val: int = 150, seed: int = 0) -> DigitsFolder:
    """Write the data set into `folder`; a split that is complete there, of the same arguments, is re-used.

    Layout: `train/*.jpg`, `val/*.jpg`, `instances_train.json`, `instances_val.json`. An image depends only on the seed,
    its split and its index. The json of a split is written last and in one step, so the call can be killed at any
    moment and repeated.

    Raises:
        UserError: scikit-learn or scikit-image is missing, a number is too small, the folder cannot be written, or it
            holds an annotation file of another origin.
    """
    if num_train < 1 or num_val < 1 or seed < 0:
        raise UserError(
            f"the digits data set needs num_train >= 1, num_val >= 1 and seed >= 0, got {num_train}, {num_val}, {seed}"
        )
    num_images: dict[Split, int] = {"train": num_train, "val": num_val}
    try:
        missing = [split for split in SPLITS if not _is_complete(folder, split, num_images[split], seed)]
        total = sum(num_images[split] for split in missing)
        with tqdm(total=total, desc="digits", unit="image", disable=not missing) as progress:
            for split in missing:
                _write_split(folder, split, num_images[split], seed, progress)
    except OSError as error:
        raise UserError(
            f"the digits data set cannot be written to {folder}: {error}; make room there or name another folder"
        ) from error
    return DigitsFolder(
        folder / "train", folder / "instances_train.json", folder / "val", folder / "instances_val.json"
    )
