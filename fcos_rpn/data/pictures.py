"""Picture files as Detectron2 reads them, but for those of 16 bits a pixel, and in words what is wrong with one."""

import contextlib
import hashlib
import os
import re
from typing import BinaryIO

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from ..errors import UserError
from .file_kinds import HEAD, what_else

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
    except UserError:
        raise
    except Exception as error:  # of nearly any type: they come out of the decoders as they are
        raise UserError(_why_unreadable(os.fspath(file), error)) from error


def picture_size(file: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height after the rotation that its EXIF data may ask for; reads the file's header only.

    Raises:
        UserError: names the file and says why it cannot be read.
    """
    try:
        with Image.open(file) as picture:
            width, height = picture.size
    except Exception as error:  # as in `read_picture`
        raise UserError(f"{os.fspath(file)}: {_why_unreadable(os.fspath(file), error)}") from error
    return (height, width) if _is_turned(file) else (width, height)


def _why_unreadable(file: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file; add it or delete this image from the json"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror}); make it readable or delete this image from the json"
    if isinstance(error, Image.DecompressionBombError):
        pixels = int(next(re.finditer(r"\d+", str(error))).group())
        return (
            f"it has {pixels / 1e6:.0f} megapixels, more than the {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} that "
            "Pillow reads; scale it down, or cut it and its boxes into tiles"
        )
    if not isinstance(error, UnidentifiedImageError):
        return (
            f"not a readable picture ({error}); the file may be truncated, so copy it again or delete this image from "
            "the json"
        )
    with PathManager.open(file, "rb") as stream:
        head = stream.read(HEAD)
        if (found := what_else(head)) is not None:
            return f"not a picture, but {found}"
        if head[:4] in (b"II*\0", b"MM\0*") and (problem := _tiff_problem(stream)) is not None:
            return problem
    start = head[:12].decode("latin-1")
    return (
        f"not a picture that Pillow knows (it begins with {start if start.isprintable() else head[:12].hex(' ')}); "
        "convert it to JPEG or PNG, or delete this image from the json"
    )


def _tiff_problem(stream: BinaryIO) -> str | None:
    """What keeps Pillow from reading a TIFF."""
    with contextlib.suppress(Exception):
        stream.seek(0)
        directory = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
        stream.seek(directory.next)
        directory.load(stream)
        bands = directory.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        bits = directory.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        if bands > 4:
            return f"it has {bands} bands, and a picture has 1 (gray), 3 (RGB) or 4; save three of them as PNG"
        return f"a TIFF of {bands} bands with {max(bits)} bits each, which Pillow does not read; convert it to PNG"
    return None


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
    """Say how a picture differs from the width and height that the json says."""
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
