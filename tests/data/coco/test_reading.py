import json

import pytest

from fcos_rpn.data.coco.reading import read_json
from fcos_rpn.errors import UserError
from tests.data.small_coco import small_coco

LISTS = '"images": [{}], "categories": [{}]'


def refused(file) -> str:
    with pytest.raises(UserError) as error:
        read_json(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert message.encode()
    assert len(message) < 1000
    return message.removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # no json
        (b"", "is an empty file; copy or export it again"),
        (b"\0" * 100, "is a file of zeros or spaces"),
        (b'{"images": [],\n "annotations": [', "not a readable json: it ends in line 2, so it is cut off"),
        (
            b'{"images": [{"id": 1},],\n "a": 1}',
            "not a readable json: a comma too much in line 1, column 22; delete it",
        ),
        (b'{"images": [],\n "a": 1, }', "not a readable json: a comma too much in line 2, column 8; delete it"),
        (b'{"a": 1}{"a": 1}', "not a readable json: Extra data"),
        (b'{"a": "\xe9"}', "not a readable json: line 1 is not UTF-8; save it as UTF-8"),
        (json.dumps(small_coco()).encode("utf-16"), "its text is UTF-16; save it as UTF-8"),
        (json.dumps(small_coco()).encode("utf-16-le"), "its text is UTF-16; save it as UTF-8"),
        (b"[" * 100_000, "not a readable json: maximum recursion depth"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not a readable json: Exceeds the limit"),
        (b"\x80\x04\x8c\x05posix\x94\x8c\x05mkdir\x94\x93\x94.", "not a readable json"),  # a pickle
        # other files
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a pointer of Git LFS, not the file itself; run git lfs",
        ),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page, so its download failed; download it again"),
        (b"PK\3\4...", "is a zip archive; unpack it"),
        # other formats
        (b"0 0.5 0.5 0.2 0.2\n1 .1 .2 .3 .4\n", "is labels of YOLO; convert it with fcos-rpn convert-dataset"),
        (
            b"path: x\ntrain: images\nnames: ['cat']",
            "is the data.yaml of YOLO; convert it with fcos-rpn convert-dataset",
        ),
        (b'<?xml version="1.0"?>\n<annotation>', "is an annotation of Pascal VOC; convert it with fcos-rpn convert"),
        (b"<annotation/>", "is an annotation of Pascal VOC"),
        (b'<?xml version="1.0"?>\n<annotations>', "is an XML of CVAT's; convert it with fcos-rpn convert-dataset"),
        (b"filename,xmin\n1.jpg,3\n", "is a CSV table; export it in COCO's instances format from the tool"),
        (b"{'images': []}", "is written by Python's print, not by json.dump"),
        (b'{"image": "1.jpg"}\n{"image": "2.jpg"}\n', "is a json on every line (JSON Lines)"),
        (b'{"shapes": [], "imagePath": "1.jpg"}', "is in the format of LabelMe; export it in COCO's instances format"),
        (b'{"_via_img_metadata": {}}', "is in the format of VIA; export it in COCO's instances format from that tool"),
        (b'{"1.jpg123": {"filename": "1.jpg", "regions": []}}', "is in the format of VIA"),
        (b'[{"image": "1.jpg", "annotations": []}]', "is in the format of CreateML"),
        (b'[{"data": {}, "annotations": []}]', "is in the format of Label Studio"),
        (b'{"type": "FeatureCollection", "features": []}', "is in the format of GeoJSON"),
        (b'[{"image_id": 1, "category_id": 2, "score": 0.5}]', "holds no object, but a list of COCO's results"),
        (b'{%b, "annotations": [{"segments_info": []}]}' % LISTS.encode(), "holds COCO's panoptic segments"),
        (b'{%b, "annotations": [{"caption": "a"}]}' % LISTS.encode(), "holds COCO's captions"),
        # another shape
        (b'"images"', "holds no object with the keys"),
        (b"[]", "holds no object with the keys"),
        (b'{"images": [], "annotations": []}', "the key 'categories' is missing"),
        (b'{"Images": [{}], "categories": [{}], "annotations": []}', "the key is 'Images'; rename it 'images'"),
        (b'{%b, "annotation": []}' % LISTS.encode(), "the key is 'annotation'; rename it 'annotations'"),
        (b'{%b, "annotations": null}' % LISTS.encode(), "'annotations' is no list"),
        (b'{"images": [{}], "categories": [], "annotations": []}', "'categories' is empty"),
    ],
)
def test_what_is_no_coco_json_is_named(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    assert refused(tmp_path / "a.json").startswith(expected)


def test_a_path_that_is_no_file_is_named(tmp_path):
    assert refused(tmp_path / "nowhere.json").startswith("cannot be read (No such file")
    assert refused(tmp_path).startswith("is a folder; give the path of a COCO json")
    (tmp_path / "1.xml").touch()
    assert refused(tmp_path).startswith(
        "is a folder of Pascal VOC's annotations; convert it with fcos-rpn convert-dataset"
    )


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_utf_8_is_read_with_and_without_byte_order_mark(tmp_path, start):
    content = small_coco()
    content["categories"][0]["name"] = "Kätzchen 猫"
    (tmp_path / "a.json").write_bytes(start + json.dumps(content, ensure_ascii=False).encode())
    assert read_json(tmp_path / "a.json") == (content, not start)


def test_other_locales_read_ascii_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale: "ISO-8859-1")
    for name, is_plain in (("cat", True), ("Kätzchen", False)):
        content = small_coco() | {"categories": [{"id": 2, "name": name}]}
        (tmp_path / "a.json").write_bytes(json.dumps(content, ensure_ascii=False).encode())
        assert read_json(tmp_path / "a.json") == (content, is_plain)
