"""Checks the picture files of a data set: reads all of them, so that no training stops at one."""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ...errors import UserError
from ..pictures import digest, read_picture, size_problem
from .findings import Finding, image_place, original_id, some
from .rules import Entry


class CheckedPictures(NamedTuple):
    """The files of some images."""

    findings: list[Finding]
    digests: list[tuple[Entry, bytes]]
    """Images that can be read, and what is the same for the same pixels."""
    sound: set[int]
    """Ids of the images that have their picture, of the size that the json says."""


def check_pictures(folder: Path, images: Sequence[Entry]) -> CheckedPictures:
    """Read the pictures of images whose files are there."""
    checked = CheckedPictures([], [], set())
    real_folder = Path(os.path.realpath(folder))
    links = [
        image_place(image)
        for image in images
        if not Path(os.path.realpath(real_folder / image["file_name"])).is_relative_to(real_folder)
    ]
    if links:
        text = (
            f"{len(links):,} files are symbolic links that leave {folder}, first {some(links)}; copies go along with it"
        )
        checked.findings.append(Finding("warning", "symbolic links", "", text))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's own, about EXIF data and the like
        for image in tqdm(images, desc="reading pictures", unit="image", disable=not images):
            _check_picture(image, real_folder, checked)
    return checked


def _check_picture(image: Entry, folder: Path, checked: CheckedPictures) -> None:
    def add(kind: str, text: str) -> None:
        checked.findings.append(Finding("error", kind, image_place(image), text, original_id(image)))

    file = os.path.join(folder, image["file_name"])
    try:
        picture = read_picture(file, "RGB")
    except UserError as error:
        add("unreadable picture", str(error))
        return
    checked.digests.append((image, digest(picture)))
    width, height = image.get("width"), image.get("height")
    if type(width) is not int or type(height) is not int:
        return  # which the check of the json has said
    if problem := size_problem(file, picture, (width, height)):
        add("other size", problem)
    else:
        checked.sound.add(image["id"])


def equal_pictures(checked: CheckedPictures) -> Iterator[Finding]:
    """Pictures that a set has several times."""
    first_images: dict[bytes, Entry] = {}
    for image, content in checked.digests:
        if (first := first_images.setdefault(content, image)) is not image:
            text = f"the same picture as {image_place(first)}; is one of them enough?"
            yield Finding("warning", "equal pictures", image_place(image), text, original_id(image))


def shared_pictures(train: CheckedPictures, val: CheckedPictures) -> Iterator[Finding]:
    """Pictures of the second set that are in the first one, too."""
    train_images = {content: image for image, content in reversed(train.digests)}
    for image, content in val.digests:
        if content in train_images:
            text = f"the same picture as train {image_place(train_images[content])}; take it out of one set, or AP lies"
            yield Finding("warning", "picture in both sets", f"val {image_place(image)}", text, original_id(image))
