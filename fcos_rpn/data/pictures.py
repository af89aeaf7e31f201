"""Picture files as Detectron2 reads them, but for those of 16 bits a pixel, and in words what is wrong with one."""

import contextlib
import hashlib
import os

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError

EXIF_ORIENTATION = 0x0112
QUARTER_TURNS = (5, 6, 7, 8)  # of the orientations: those that swap width and height
FORMATS_OF_16_BITS = ("PNG", "PPM")  # whose gray pictures of more than 8 bits PIL may call "I", as if they had 32


def read_picture(file: str | os.PathLike[str], image_format: str) -> NDArray[np.uint8]:
    """
    Args:
        file: of any kind that PIL knows.
        image_format: as INPUT.FORMAT.

    Returns:
        See `pixels_of`.

    Raises:
        UserError: says why it cannot be read and what to do; whoever catches it adds which file it is.
    """
    try:
        with PathManager.open(os.fspath(file), "rb") as stream, Image.open(stream) as picture:
            return pixels_of(picture, image_format)
    except FileNotFoundError as error:
        raise UserError("no such file; add it or delete this image from the json") from error
    except UserError:
        raise
    except Exception as error:  # of nearly any type: they come out of the decoders as they are
        raise UserError(
            f"not a readable picture ({error}); the file may be truncated, so copy it again or delete this image from "
            "the json"
        ) from error


def pixels_of(picture: Image.Image, image_format: str) -> NDArray[np.uint8]:
    """
    Args:
        picture: of 16 bits a pixel at most.
        image_format: as INPUT.FORMAT.

    Returns:
        (H, W, 3), or (H, W, 1) in gray, after the rotation that its EXIF data may ask for, without transparency. Of 16
        bits a pixel the upper 8, so that 65535 is white.

    Raises:
        UserError: if its pixels have more bits.
    """
    return convert_PIL_to_numpy(_in_8_bits(_apply_exif_orientation(picture)), image_format)


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """PIL would take the upper 8 bits of a color, but cut a gray of 16 bits off at 255."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in FORMATS_OF_16_BITS):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise UserError(
            "its pixels have 32 bits, and nothing says which of their values is white; convert it to 8 or 16 bits"
        )
    return picture


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
