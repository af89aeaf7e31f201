"""Pascal VOC and CVAT, which hotcoco reads.

hotcoco numbers VOC's classes in the order of labels.txt, or of the alphabet without one. A `difficult` box becomes a
crowd: training leaves it out, and evaluation does not count it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError, install_hint
from ..pictures import picture_size
from .splits import Split, find_pictures

VOC_SPLITS = "train", "val", "trainval", "test"
NO_SPLIT = "train"
"""What the only set is called if there are no lists in ImageSets/Main."""


def read_voc(folder: Path, images: Path | None = None) -> list[Split]:
    """Read the splits that ImageSets/Main lists, or all pictures as one; a picture without an XML has no boxes.

    Args:
        folder: has Annotations/, or the XML files themselves.
        images: the pictures; by default JPEGImages/ of the folder, or the folder itself.

    Raises:
        UserError: names the file and what is wrong with it.
    """
    annotations = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    jpegs = folder / "JPEGImages"
    images = images or (jpegs if jpegs.is_dir() or annotations != folder else folder)
    pictures = {file.relative_to(images).with_suffix("").as_posix(): file for file in find_pictures(images)}
    with _hotcoco() as coco:
        content = coco.from_voc(str(folder)).dataset
    # hotcoco reads the files in the order of their names. Its file_name is what the XML says, which is often not the
    # picture's name; the name of the XML is.
    stems = [file.stem for file in sorted(annotations.glob("*.xml"))]
    if not stems:
        raise UserError(f"{annotations}: holds no XML files; give the folder that has Annotations/")
    entries = dict(zip(stems, content["images"], strict=True))
    boxes: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        boxes[annotation["image_id"]].append(annotation)

    lists = {name: folder / "ImageSets" / "Main" / f"{name}.txt" for name in VOC_SPLITS}
    members = {name: [*_listed(file)] for name, file in lists.items() if file.is_file()}
    if not members:
        members = {NO_SPLIT: [*({**dict.fromkeys(stems), **dict.fromkeys(pictures)})]}
    splits = []
    for name, names in members.items():
        chosen: list[dict[str, Any]] = []
        for stem in names:
            if stem not in pictures:
                where = lists[name] if lists[name].is_file() else annotations / f"{stem}.xml"
                raise UserError(f"{where}: there is no picture {images / stem}.jpg or the like; add it")
            image = entries.get(stem, {"id": len(entries) + 1 + len(chosen), "width": 0, "height": 0})
            if not image["width"] or not image["height"]:
                image["width"], image["height"] = picture_size(pictures[stem])
            chosen.append(image | {"file_name": pictures[stem].relative_to(images).as_posix()})
        found = [box for image in chosen for box in boxes.get(image["id"], ())]
        splits.append(
            Split(name, images, {"images": chosen, "annotations": found, "categories": content["categories"]})
        )
    return splits


def read_cvat(xml_file: Path, images: Path) -> list[Split]:
    """Read a file in the format 'CVAT for images 1.1' as one split.

    Raises:
        UserError: names the file and what is wrong with it.
    """
    find_pictures(images)
    with _hotcoco() as coco:
        return [Split(xml_file.stem, images, coco.from_cvat(str(xml_file)).dataset)]


def _listed(file: Path) -> Iterator[str]:
    """Yield the pictures of a list."""
    for line in file.read_text("utf-8").splitlines():
        if line.strip():
            yield line.strip()


@contextlib.contextmanager
def _hotcoco() -> Iterator[Any]:
    """Give hotcoco's class COCO; what it raises on bad files becomes a message."""
    try:
        from hotcoco import COCO
    except ImportError as error:
        raise UserError(f"hotcoco reads XML files and is not installed: {install_hint('fast-eval')}") from error
    try:
        yield COCO
    except (OSError, ValueError) as error:
        raise UserError(f"{error}; correct the file") from error
