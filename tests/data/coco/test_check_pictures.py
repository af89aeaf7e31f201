from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fcos_rpn.data.coco.check_pictures import check_pictures, equal_pictures, shared_pictures


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of 8 x 6 pixels: 1.png, 2.png and 3.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def entries(*names: str) -> list[dict]:
    return [{"id": i, "file_name": name, "width": 8, "height": 6} for i, name in enumerate(names, start=1)]


ALL = "1.png", "2.png", "3.png"


def test_sound_pictures(folder, capsys):
    checked = check_pictures(folder, entries(*ALL))
    assert checked.findings == []
    assert checked.sound == {1, 2, 3}
    assert not [*equal_pictures(checked)]
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "kind", "expected"),
    [
        (lambda file: file.write_bytes(b""), "unreadable picture", "not a picture, but an empty file"),
        (lambda file: Image.new("RGB", (6, 8)).save(file), "other size", "the picture is 6 x 8 pixels"),
    ],
)
def test_errors(folder, spoil, kind, expected):
    spoil(folder / "2.png")
    checked = check_pictures(folder, entries(*ALL))
    (finding,) = checked.findings
    assert str(finding).startswith(f"error: image 2 (2.png): {expected}")
    assert (finding.kind, finding.image_id) == (kind, 2)
    assert checked.sound == {1, 3}


def test_links_that_leave_the_folder_are_one_warning(folder):
    for name in ("2.png", "3.png"):
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)
    checked = check_pictures(folder, entries(*ALL))
    (finding,) = checked.findings
    links = f"2 files are symbolic links that leave {folder}, first image 2 (2.png), image 3 (3.png);"
    assert str(finding).startswith(f"warning: {links}")
    assert checked.sound == {1, 2, 3}


def test_a_folder_that_is_a_link_is_as_good(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (folder / "4.png").symlink_to(folder / "1.png")
    assert check_pictures(tmp_path / "link", entries("1.png", "4.png")).findings == []


def test_an_image_without_a_size_is_not_sound_and_not_said_twice(folder):
    checked = check_pictures(folder, [{"id": 1, "file_name": "1.png", "width": 8.0}])
    assert (checked.findings, checked.sound, len(checked.digests)) == ([], set(), 1)


def test_equal_pictures_by_their_pixels(folder):
    pixels = np.asarray(Image.open(folder / "1.png"))
    Image.fromarray(pixels).save(folder / "2.bmp")  # other bytes
    checked = check_pictures(folder, entries("1.png", "2.png", "2.bmp", "1.png"))
    assert [str(finding) for finding in equal_pictures(checked)] == [
        f"warning: {place}: the same picture as image 1 (1.png); is one of them enough?"
        for place in ("image 3 (2.bmp)", "image 4 (1.png)")
    ]
    val = check_pictures(folder, [entry | {"original_id": "x"} for entry in entries("3.png", "2.bmp")])
    assert [finding.image_id for finding in shared_pictures(checked, val)] == ["x"]
    assert [str(finding) for finding in shared_pictures(checked, val)] == [
        "warning: val image x (2.bmp): the same picture as train image 1 (1.png); take it out of one set, or AP lies"
    ]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".tiff", ".webp"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_of_a_picture(tmp_path, suffix, data):
    file = tmp_path / f"a{suffix}"
    Image.new("RGB", (8, 6), "gray").save(file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    checked = check_pictures(tmp_path, entries(file.name))
    assert all(finding.kind in ("unreadable picture", "other size") for finding in checked.findings)
