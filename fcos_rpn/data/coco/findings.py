"""What a data set has wrong or odd: a line for each finding."""

from collections.abc import Mapping, Sequence
from reprlib import repr as short_repr
from typing import Any, Literal, NamedTuple

MAX_EXAMPLES = 3


class Finding(NamedTuple):
    """An error is what training refuses; a warning what it repairs, or what may be meant."""

    level: Literal["error", "warning"]
    kind: str
    """In a few words, the same for all such findings."""
    place: str
    """Annotation, image, category or file; empty for the json as a whole."""
    text: str
    """What is wrong; what to do."""
    image_id: Any = None
    annotation_id: Any = None

    @property
    def line(self) -> str:
        return printable(f"{self.place}: {self.text}" if self.place else self.text)

    def __str__(self) -> str:
        return f"{self.level}: {self.line}"

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"place": printable(self.place), "text": printable(self.text)}


def printable(text: str) -> str:
    """In one line, without control characters and without what UTF-8 cannot express."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def some(names: Sequence[str], limit: int = MAX_EXAMPLES) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def original_id(image: Mapping[str, Any]) -> Any:
    """The id of an image in the user's json, which loading may have replaced."""
    return image.get("original_id", image["id"])


def image_place(image: Mapping[str, Any], *, with_file: bool = True) -> str:
    """What findings call an image, whatever its file name is."""
    file_name = image.get("file_name")
    name = f"image {short_repr(original_id(image)).strip(chr(39))}"
    return f"{name} ({file_name})" if with_file and isinstance(file_name, str) and file_name else name


def annotation_place(annotation: Mapping[str, Any], position: int, image: Mapping[str, Any] | None) -> str:
    """What findings call an annotation, whatever it holds: by its position where it has no id."""
    annotation_id, image_id = annotation.get("id"), annotation.get("image_id")
    name = f"annotations[{position}]" if annotation_id is None else f"annotation {short_repr(annotation_id)}"
    if image is None and image_id is None:
        return name
    return f"{name} of {image_place(image) if image else f'image {short_repr(image_id)}'}"
