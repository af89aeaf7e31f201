import struct
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from fcos_rpn.data.pictures import digest, pixels_of, read_picture, size_problem
from fcos_rpn.errors import UserError


@pytest.fixture
def file(tmp_path) -> Path:
    """A picture of 40 x 30 pixels."""
    file = tmp_path / "a.jpg"
    Image.effect_noise((40, 30), 90).convert("RGB").save(file)
    return file


def turn(file: Path) -> None:
    """By EXIF data: the picture is seen as 30 x 40 pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(file, exif=exif)


def test_a_picture_is_read_as_it_is_seen(file):
    assert read_picture(file, "RGB").shape == (30, 40, 3)
    assert np.array_equal(read_picture(file, "BGR"), read_picture(file, "RGB")[..., ::-1])
    turn(file)
    assert read_picture(file, "RGB").shape == (40, 30, 3)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file; add it"),
        (..., "cannot be read (Is a directory)"),
        (b"", "not a picture, but an empty file; copy or export it again"),
        (b"\x89PNG", "not a picture that Pillow knows (it begins with 89 50 4e 47); convert it"),
        (b"hello world, hello", "not a picture that Pillow knows (it begins with hello world,); convert it"),
        (b"version https://git-lfs.github.com/spec/v1", "not a picture, but a pointer of Git LFS, not the file itself"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "not a picture, but what macOS keeps beside a file (AppleDouble)"),
        (b"\n<html>404</html>", "not a picture, but a web page, so its download failed; download it again"),
        (b"<?xml version='1.0'?><svg/>", "not a picture, but an SVG drawing"),
        (b"\0\0\0\x18ftypheic", "not a picture, but a HEIC picture, which is not read; save it as JPEG or PNG"),
        (b"%PDF-1.4", "not a picture, but a PDF"),
    ],
)
def test_unreadable(file, content, expected):
    file.unlink()
    if content is ...:
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_picture(file, "RGB")
    assert str(error.value).startswith(expected)


def test_a_picture_larger_than_pillow_reads(tmp_path, monkeypatch):
    Image.new("L", (3000, 2000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_500_000)
    with pytest.raises(
        UserError, match=r"^it has 6 megapixels, more than the 5 that Pillow reads; scale it down, or cut"
    ):
        read_picture(tmp_path / "a.png", "RGB")


def write_tiff(file: Path, bands: int, bits: int) -> None:
    """2 x 1 pixels: the header, a directory of tags (number, type SHORT, count, value), and the pixels."""
    bits_at = 8 + 2 + 8 * 12 + 4
    pixels_at = bits_at + 2 * bands
    tags = {256: 2, 257: 1, 258: bits_at, 259: 1, 262: 1, 273: pixels_at, 277: bands, 279: 2 * bands * bits // 8}
    entries = [struct.pack("<HHII", tag, 3, bands if tag == 258 else 1, value) for tag, value in tags.items()]
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + b"\0" * 4
    file.write_bytes(b"II*\0\x08\0\0\0" + directory + struct.pack("<H", bits) * bands + b"\0" * (2 * bands * bits // 8))


@pytest.mark.parametrize(
    ("bands", "bits", "expected"),
    [(5, 16, "it has 5 bands, and a picture has 1"), (3, 64, "a TIFF of 3 bands with 64 bits each, which Pillow")],
)
def test_tiffs_that_pillow_does_not_read(tmp_path, bands, bits, expected):
    write_tiff(tmp_path / "a.tif", bands, bits)
    with pytest.raises(UserError) as error:
        read_picture(tmp_path / "a.tif", "RGB")
    assert str(error.value).startswith(expected)


def test_pictures_of_8_bits_are_read_as_detectron2_reads_them(tmp_path):
    noise = Image.effect_noise((40, 30), 90)
    transparent = noise.convert("RGBA")
    transparent.putalpha(noise)
    kinds = [noise, noise.convert("1"), noise.convert("P"), noise.convert("LA"), transparent, noise.convert("RGB")]
    for number, picture in enumerate(kinds):
        file = tmp_path / f"{number}.png"
        picture.save(file)
        for image_format in ("RGB", "BGR", "L", "YUV-BT.601"):
            found = read_picture(file, image_format)
            assert found.dtype == (np.float64 if image_format.startswith("YUV") else np.uint8)
            np.testing.assert_array_equal(found, read_image(str(file), image_format))
    noise.convert("CMYK").save(tmp_path / "print.jpg")
    np.testing.assert_array_equal(
        read_picture(tmp_path / "print.jpg", "BGR"), read_image(tmp_path / "print.jpg", "BGR")
    )


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_of_16_bits_the_upper_8_are_read(tmp_path, name):
    """0, 255, 256, 25700 = 100 · 256 + 100 and 65535, which PIL alone would make 0, 255, 255, 255 and 255."""
    values = np.array([[0, 255, 256], [25700, 65280, 65535]], dtype=np.uint16)
    if name.endswith(".pgm"):  # which PIL reads since ever, and writes since 11
        (tmp_path / name).write_bytes(b"P5 3 2 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    expected = [[0, 0, 1], [100, 255, 255]]
    for image_format in ("RGB", "BGR"):
        found = read_picture(tmp_path / name, image_format)
        assert found.dtype == np.uint8
        assert found.tolist() == [[[value] * 3 for value in row] for row in expected]
    assert read_picture(tmp_path / name, "L")[..., 0].tolist() == expected
    big_endian = Image.frombytes("I;16B", (3, 2), values.astype(">u2").tobytes())
    assert pixels_of(big_endian, "L")[..., 0].tolist() == expected
    big_endian.getexif()[0x0112] = 6
    assert pixels_of(big_endian, "L").shape[:2] == (3, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pictures_of_32_bits_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((2, 3), dtype=dtype)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"^its pixels have 32 bits, .*; convert it to 8 or 16 bits$"):
        read_picture(tmp_path / "a.tif", "RGB")


def test_other_sizes(file):
    picture = read_picture(file, "RGB")
    assert size_problem(file, picture, (40, 30)) is None
    other, swapped = size_problem(file, picture, (41, 30)), size_problem(file, picture, (30, 40))
    assert other is not None
    assert "the picture is 40 x 30 pixels" in other
    assert "the json says width 41, height 30; correct the json" in other
    assert swapped is not None
    assert "width 30, height 40; the two are swapped: correct the json" in swapped
    turn(file)
    turned = size_problem(file, read_picture(file, "RGB"), (40, 30))
    assert turned is not None
    assert "width 40, height 30; they are those before the rotation: correct the json" in turned


def test_digests_are_of_pixels_and_shape():
    picture = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert digest(picture) == digest(np.asfortranarray(picture))  # the same pixels in another order of memory
    assert digest(picture) != digest(picture.reshape(4, 3, 3))
    changed = picture.copy()
    changed[0, 0, 0] += 1
    assert digest(picture) != digest(changed)
