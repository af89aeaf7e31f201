from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcos_rpn.data.picture_files import digest, read_picture, size_problem
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
