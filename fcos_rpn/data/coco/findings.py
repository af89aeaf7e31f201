"""What the check of a data set has to say: a line for each finding."""

from collections.abc import Mapping
from reprlib import repr as short_repr
from typing import Any, Literal, NamedTuple


class Finding(NamedTuple):
    """An error is what cannot be meant; a warning is what may be."""

    level: Literal["error", "warning"]
    kind: str
    """In a few words, the same for all such findings."""
    place: str
    """Annotation, image, category or file."""
    text: str
    """What is wrong; what to do."""
    image_id: int | None = None
    annotation_id: int | None = None

    def __str__(self) -> str:
        return printable(f"{self.level}: {self.place}: {self.text}")

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"place": printable(self.place), "text": printable(self.text)}


def printable(text: str) -> str:
    """In one line, without control characters and without what UTF-8 cannot express."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def image_place(image: Mapping[str, Any]) -> str:
    """What findings call an image, whatever its file name is."""
    file_name = image.get("file_name")
    return f"image {image['id']} ({file_name})" if isinstance(file_name, str) and file_name else f"image {image['id']}"


def annotation_place(annotation: Mapping[str, Any], position: int, images: Mapping[int, Mapping[str, Any]]) -> str:
    """What findings call an annotation, whatever it holds.

    Args:
        annotation: names the one without an id by its position.
        position: in the json's list.
        images: by id.
    """
    annotation_id, image_id = annotation.get("id"), annotation.get("image_id")
    name = f"annotations[{position}]" if annotation_id is None else f"annotation {annotation_id}"
    image = images.get(image_id) if type(image_id) is int else None
    return f"{name} of {image_place(image) if image else f'image {short_repr(image_id)}'}"
