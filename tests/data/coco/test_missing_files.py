import os

import pytest

from fcos_rpn.data.coco.missing_files import missing_files


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        (
            ["1.jpg", "2.jpg"],
            ["1.JPG", "2.JPG"],
            "'1.jpg' (image 1) is '1.JPG', '2.jpg' (image 2) is '2.JPG'; upper and",
        ),
        (["a\\1.jpg"], ["a/1.jpg"], "'a\\\\1.jpg' (image 1) is 'a/1.jpg'; write / in place of \\"),
        (["a%201.jpg"], ["a 1.jpg"], "'a%201.jpg' (image 1) is 'a 1.jpg'; write the names plainly"),
        (["images/1.jpg"], ["1.jpg"], "'images/1.jpg' (image 1) is '1.jpg'; the sub-folders differ; give the folder"),
        (["1.jpg"], ["train/1.jpg"], "'1.jpg' (image 1) is 'train/1.jpg'; the sub-folders differ; give the folder"),
        (["/home/me/1.jpg"], ["1.jpg"], "'/home/me/1.jpg' (image 1) is '1.jpg'; these are absolute paths of another"),
        (["C:\\data\\1.jpg"], ["1.jpg"], "'C:\\\\data\\\\1.jpg' (image 1) is '1.jpg'; these are absolute paths"),
        (["http://a.b/1.jpg"], ["1.jpg"], "'http://a.b/1.jpg' (image 1) is '1.jpg'; these are addresses in the web"),
        (["1.jpg"], ["1.png"], "'1.jpg' (image 1) is '1.png'; the extensions differ"),
        (["1"], ["1.png"], "'1' (image 1) is '1.png'; the extensions differ"),
        (["1.jpg "], ["1.jpg"], "'1.jpg ' (image 1) is '1.jpg'; spaces at the ends of the names differ"),
        (["caf\u00e9.jpg"], ["cafe\u0301.jpg"], "letters with accents are encoded in two ways"),
        (["b/1.jpg"], ["a/1.jpg", "B/1.jpg"], "'b/1.jpg' (image 1) is 'B/1.jpg'; upper and lower case differ"),
    ],
)
def test_files_under_nearly_the_name(tmp_path, names, files, expected):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]
    (finding,) = missing_files(images, num_images=7, folder=str(tmp_path))
    assert finding.level == "error"
    assert finding.text.startswith(
        f"{len(names)} of 7 image files are not in {tmp_path}, but there under nearly that name: "
    )
    assert expected in finding.text


def test_one_line_for_each_cause(tmp_path):
    for file in ("1.JPG", "a/2.jpg", "a/3.jpg", "b/3.jpg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    names = ["1.jpg", "2.jpg", "3.jpg", "gone.jpg", "../out.jpg", __file__, "a", ""]  # 3.jpg may be either of two
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]
    texts = [finding.text for finding in missing_files(images, num_images=7, folder=str(tmp_path))]
    assert [text.partition(": ")[2].partition("; ")[0] for text in texts] == [
        "'a' (image 7) is a folder, '' (image 8) is a folder",
        "'1.jpg' (image 1) is '1.JPG'",
        "'2.jpg' (image 2) is 'a/2.jpg'",
        f"'../out.jpg' (image 5), {__file__!r} (image 6)",
        "'3.jpg' (image 3), 'gone.jpg' (image 4)",
    ]


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "1.jpg").symlink_to("annex/key")
    (tmp_path / "2.jpg").mkdir()
    os.mkfifo(tmp_path / "3.jpg")
    (tmp_path / "4.jpg").symlink_to("2.jpg")
    (tmp_path / "5.jpg").symlink_to("5.jpg")
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(1, 6)]
    texts = [finding.text for finding in missing_files(images, num_images=7, folder=str(tmp_path))]
    assert texts == [
        f"2 of 7 image files in {tmp_path} are no files: '1.jpg' (image 1) is a symbolic link to annex/key, which does "
        "not exist, '5.jpg' (image 5) is a symbolic link to 5.jpg, which does not exist; copy the files there (git "
        "annex / DVC: get the files first)",
        f"2 of 7 image files in {tmp_path} are no files: '2.jpg' (image 2) is a folder, '4.jpg' (image 4) is a folder; "
        "correct the names in the json",
        f"1 of 7 image files in {tmp_path} are no files: '3.jpg' (image 3) is no regular file; put the pictures there",
    ]


def test_many_are_counted(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(1, 100)]
    (finding,) = missing_files(images, num_images=99, folder=str(tmp_path))
    assert finding.text.startswith(f"99 of 99 image files are not in {tmp_path}: '1.jpg' (image 1), ")
    assert "'10.jpg' (image 10), ...; correct the folder, add the files" in finding.text
    assert not [*missing_files([], num_images=99, folder=str(tmp_path))]
