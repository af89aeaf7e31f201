"""YOLO's data sets in the layout of Ultralytics: a data.yaml, and for each of images/NAME.jpg the file labels/NAME.txt.

A line of a label file is a class and a box (center x, center y, width, height), or a class and the x, y of a polygon;
all are fractions of the picture's size after its EXIF rotation.

hotcoco's `COCO.from_yolo` and `to_yolo` (1.3) are not used. `from_yolo` leaves out subfolders and pictures without a
label file, drops the suffixes of file names, ignores the EXIF rotation, accepts NaN, refuses polygons, WebP, and names
as an inline dict or as quoted items of a list, and wants the data.yaml among the labels. `to_yolo` loses subfolders.
"""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import UserError, make_folder
from ..pictures import picture_size
from .splits import Split, as_categories, common_folder, find_pictures

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""Key of the data.yaml -> name of the split."""
TOLERANCE = 0.01  # how far outside the picture a number may lie, as in Ultralytics


def read_yolo(data_yaml: Path) -> list[Split]:
    """Read all splits of a data.yaml; a picture without a label file becomes an image without boxes.

    Raises:
        UserError: names the file, and the line of a label file, and says what is wrong.
    """
    data = _read_data_yaml(data_yaml)
    classes = _class_names(data_yaml, data.get("names"))
    splits = []
    num_labels = 0
    for key, name in SPLITS.items():
        if not data.get(key):
            continue
        files = _pictures_of(data_yaml, data, key)
        labels = [label_file(file) for file in files]
        num_labels += sum(label.is_file() for label in labels)
        splits.append(_read_split(name, files, labels, classes))
    if not num_labels:
        raise UserError(f"{data_yaml}: no picture has a label file; the first would be {labels[0]}; add the labels")
    return splits


def write_yolo(splits: Sequence[Split], folder: Path) -> Path:
    """Write labels, copies of the pictures and a data.yaml, without crowds, which YOLO has not, and outlines.

    Args:
        splits: their categories are the same.
        folder: new or empty, since a file left there would become part of the data set.

    Returns:
        The data.yaml.

    Raises:
        UserError: the folder is not empty or cannot be written, a picture is missing, or two would share a label
            file.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; name a new folder")
    make_folder(folder)
    categories = sorted(splits[0].content["categories"], key=lambda category: category["id"])
    classes = {category["id"]: i for i, category in enumerate(categories)}
    for split in splits:
        lines: dict[Any, list[str]] = {image["id"]: [] for image in split.content["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in split.content["images"]}
        for annotation in split.content["annotations"]:
            if not annotation.get("iscrowd"):
                (x, y, w, h), (width, height) = annotation["bbox"], sizes[annotation["image_id"]]
                box = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
                numbers = [f"{value:.10g}" for value in box]
                lines[annotation["image_id"]].append(" ".join([str(classes[annotation["category_id"]]), *numbers]))
        for image in split.content["images"]:
            picture = folder / "images" / split.name / image["file_name"]
            labels = label_file(picture)
            if labels.exists():
                raise UserError(
                    f"{split.images / image['file_name']}: another picture of {split.name} has the same name but for "
                    "its suffix, so both would have one label file; rename one"
                )
            for file in (picture, labels):
                make_folder(file.parent)
            try:
                shutil.copyfile(split.images / image["file_name"], picture)
            except OSError as error:
                raise UserError(f"{error.filename}: cannot be copied to {picture} ({error.strerror})") from error
            labels.write_text("".join(f"{line}\n" for line in lines[image["id"]]))
    data = {split.name: f"images/{split.name}" for split in splits}
    data_yaml = folder / "data.yaml"
    names = {i: category["name"] for i, category in enumerate(categories)}
    data_yaml.write_text(yaml.safe_dump(data | {"names": names}, sort_keys=False, allow_unicode=True), "utf-8")
    return data_yaml


def label_file(picture: Path) -> Path:
    """Replace the last folder `images` of a path by `labels`; without one, labels lie beside the pictures."""
    parts = [*picture.parent.parts]
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts, f"{picture.stem}.txt")


def _read_data_yaml(data_yaml: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(data_yaml.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{data_yaml}: cannot be read ({error.strerror}); give the path of a data.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{data_yaml}: is not a readable YAML: {error}") from error
    if not isinstance(data, dict) or "names" not in data or not any(data.get(key) for key in SPLITS):
        raise UserError(f"{data_yaml}: needs the key 'names' and one of the keys 'train', 'val', 'test'; add them")
    if "kpt_shape" in data:
        raise UserError(f"{data_yaml}: has keypoints (kpt_shape), which are not converted; give labels of boxes")
    return data


def _class_names(data_yaml: Path, names: Any) -> dict[int, str]:
    """Number of a class in the label files -> its name, in the order of the numbers."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(number, int) for number in names):
        raise UserError(f"{data_yaml}: 'names' must be a list of names, or a dict of numbers and names; correct it")
    return {number: str(names[number]) for number in sorted(names)}


def _pictures_of(data_yaml: Path, data: dict[str, Any], key: str) -> list[Path]:
    """The pictures of a split, which is a folder, a text file that lists pictures, or a list of these."""
    files: list[Path] = []
    for value in data[key] if isinstance(data[key], list) else [data[key]]:
        # Roboflow writes ../train/images for what lies beside its data.yaml, and `path` is often another machine's.
        bases = data_yaml.parent / str(data.get("path") or ""), data_yaml.parent
        texts = str(value), str(value).removeprefix("../")
        candidates = [Path(os.path.normpath(base / text)) for base in bases for text in texts]
        source = next((path for path in candidates if path.exists()), None)
        if source is None:
            raise UserError(f"{data_yaml}: {key}: there is no {candidates[0]}; correct 'path' or {key!r}")
        if source.is_file():
            lines = filter(None, map(str.strip, source.read_text("utf-8").splitlines()))
            listed = [Path(os.path.normpath(source.parent / line)) for line in lines]
            if missing := [file for file in listed if not file.is_file()]:
                raise UserError(f"{source}: lists {missing[0]}, which is missing; correct the list")
            if not listed:
                raise UserError(f"{source}: lists no pictures; add their paths, one a line")
            files += listed
        else:
            files += find_pictures(source)
    return files


def _read_split(name: str, files: list[Path], labels: list[Path], classes: dict[int, str]) -> Split:
    folder = common_folder(files)
    ids = {number: i for i, number in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (file, label) in enumerate(zip(files, labels, strict=True), 1):
        width, height = picture_size(file)
        images.append({"id": i, "file_name": file.relative_to(folder).as_posix(), "width": width, "height": height})
        for number, shape in _read_labels(label, classes) if label.is_file() else ():
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": i,
                "category_id": ids[number],
                "iscrowd": 0,
            }
            pixels = [value * (width, height)[j % 2] for j, value in enumerate(shape)]
            if len(pixels) == 4:
                x, y, w, h = pixels
                box = [x - w / 2, y - h / 2, w, h]
            else:
                annotation["segmentation"] = [pixels]
                (left, right), (top, bottom) = ((min(pixels[j::2]), max(pixels[j::2])) for j in (0, 1))
                box = [left, top, right - left, bottom - top]
            annotations.append(annotation | {"bbox": box, "area": box[2] * box[3]})
    categories = as_categories([*classes.values()])
    return Split(name, folder, {"images": images, "annotations": annotations, "categories": categories})


def _read_labels(file: Path, classes: dict[int, str]) -> Iterator[tuple[int, list[float]]]:
    """Yield the class and the numbers of each line."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); make it a text file") from error
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            number, *shape = map(float, line.split())
        except ValueError:
            number, shape = math.nan, []
        if (len(shape) != 4 and (len(shape) < 6 or len(shape) % 2)) or not all(map(math.isfinite, [number, *shape])):
            raise UserError(
                f"{file}: line {i} is no box: {line.strip()!r}; write class, center x, center y, width, height"
            )
        if number not in classes:
            raise UserError(
                f"{file}: line {i} has class {number:g}, but the names have {[*classes]}; correct one of both"
            )
        if min(shape) < -TOLERANCE or max(shape) > 1 + TOLERANCE:
            raise UserError(
                f"{file}: line {i} has numbers outside 0 to 1: {line.strip()!r}; divide them by the picture's size"
            )
        yield int(number), shape
