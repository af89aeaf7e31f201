"""Picture files as Detectron2 reads them for training, and in words what is wrong with one."""

import contextlib
import hashlib
import os

import numpy as np
from detectron2.data.detection_utils import read_image
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError

EXIF_ORIENTATION = 0x0112
QUARTER_TURNS = (5, 6, 7, 8)  # of the orientations: those that swap width and height


def read_picture(file: str | os.PathLike[str], image_format: str) -> NDArray[np.uint8]:
    """
    Args:
        file: of any kind that PIL knows.
        image_format: as INPUT.FORMAT.

    Returns:
        (H, W, 3), or (H, W, 1) in gray, after the rotation that its EXIF data may ask for.

    Raises:
        UserError: says why it cannot be read and what to do; whoever catches it adds which file it is.
    """
    try:
        return read_image(os.fspath(file), image_format)
    except FileNotFoundError as error:
        raise UserError("no such file; add it or delete this image from the json") from error
    except Exception as error:  # of nearly any type: they come out of the decoders as they are
        raise UserError(
            f"not a readable picture ({error}); the file may be truncated, so copy it again or delete this image from "
            "the json"
        ) from error


def size_problem(file: str | os.PathLike[str], picture: NDArray[np.uint8], size: tuple[int, int]) -> str | None:
    """
    Args:
        file, picture: see `read_picture`.
        size: width and height that the json says.
    """
    height, width = picture.shape[:2]
    if (width, height) == size:
        return None
    hint = ""
    if (height, width) == size:
        hint = "they are those before the rotation: " if _is_turned(file) else "the two are swapped: "
    return (
        f"the picture is {width} x {height} pixels, after the rotation that its EXIF data may ask for, but the json "
        f"says width {size[0]}, height {size[1]}; {hint}correct the json (and its boxes) or put the right picture there"
    )


def digest(picture: NDArray[np.uint8]) -> bytes:
    """The same for the same pixels, and for no other picture."""
    content = hashlib.blake2b(repr(picture.shape).encode(), digest_size=16)
    content.update(picture.tobytes())
    return content.digest()


def _is_turned(file: str | os.PathLike[str]) -> bool:
    with contextlib.suppress(Exception), Image.open(file) as image:
        return image.getexif().get(EXIF_ORIENTATION) in QUARTER_TURNS
    return False
