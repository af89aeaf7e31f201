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
    [(None, "no such file; add it"), (b"", "not a readable picture (cannot identify"), (b"\x89PNG", "not a readable")],
)
def test_unreadable(file, content, expected):
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_picture(file, "RGB")
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


def test_16_bits_of_the_other_byte_order(tmp_path):
    pixels = np.array([[0, 255, 256], [25700, 65280, 65535]], dtype=np.uint16)
    big_endian = Image.frombytes("I;16B", (3, 2), pixels.astype(">u2").tobytes())
    assert pixels_of(big_endian, "L")[..., 0].tolist() == [[0, 0, 1], [100, 255, 255]]


def test_a_picture_of_16_bits_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[0, 256, 512]], dtype=np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert read_picture(tmp_path / "a.png", "L")[..., 0].tolist() == [[0], [1], [2]]


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
