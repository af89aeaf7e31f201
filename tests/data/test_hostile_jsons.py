"""Files that mean harm or come out of a broken program, as text: one message each, no traceback, nothing outside."""

import json
import os
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_rpn import UserError
from fcos_rpn.data import register_coco_folder
from tests.data.small_coco import small_coco, write_coco

pytestmark = pytest.mark.usefixtures("detectron2_restored")


def whole(**lists: str) -> str:
    """The small data set with some of its lists, or other keys, as text."""
    texts = {key: json.dumps(value) for key, value in small_coco().items()} | lists
    return "{" + ", ".join(f'"{key}": {value}' for key, value in texts.items()) + "}"


def image(**keys: str) -> str:
    """The whole with one image, of which some keys are other text, and no annotations."""
    texts = {"id": "11", "file_name": '"11.png"', "width": "80", "height": "60"} | keys
    return whole(images="[{" + ", ".join(f'"{key}": {value}' for key, value in texts.items()) + "}]", annotations="[]")


def annotation(**keys: str) -> str:
    """The whole with one annotation, of which some keys are other text."""
    texts = {"id": "1", "image_id": "11", "category_id": "2", "bbox": "[1, 2, 3, 4]", "area": "12", "iscrowd": "0"}
    return whole(annotations="[{" + ", ".join(f'"{key}": {value}' for key, value in (texts | keys).items()) + "}]")


REFUSED = {
    # no json
    "nothing": (b"", "not a readable json"),
    "zeros": (b"\0" * 100, "not a readable json"),
    "byte order mark": (b"\xef\xbb\xbf" + whole().encode(), "not a readable json"),
    "UTF-16": (whole().encode("utf-16"), "not a readable json"),
    "pickle": (b"\x80\x04\x8c\x05posix\x94\x8c\x05mkdir\x94\x93\x94.", "not a readable json"),
    "two documents": (f"{whole()}{whole()}", "not a readable json"),
    "cut off": (whole()[:-20], "not a readable json"),
    "lists without an end": ("[" * 200_000, "not a readable json"),
    "objects without an end": ('{"images":' * 200_000, "not a readable json"),
    "thousands of digits": (image(width="9" * 5000), "not a readable json"),
    "code": ("__import__('os').mkdir('trap')", "not a readable json"),
    # another shape
    "text": ('"images"', "holds no object"),
    "null": ("null", "holds no object"),
    "list of everything": (f"[{whole()}]", "holds no object"),
    "results": ('[{"image_id": 11, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]', "holds no object"),
    "images by id": (whole(images='{"11": {}}'), "'images' is no list"),
    "annotations null": (whole(annotations="null"), "'annotations' is no list"),
    "categories as text": (whole(categories='"cat"'), "'categories' is no list"),
    "list of lists": (whole(images="[[]]"), "images[0] is [], not an object"),
    # ids
    "id as text": (annotation(id='"1"'), "annotations[0]: id '1' is not a whole number"),
    "id with a point": (image(id="11.0"), "images[0]: id 11.0 is not a whole number"),
    "id without an end": (image(id="1e999"), "images[0]: id inf is not a whole number"),
    "id of a hundred digits": (image(id="1" * 100), "images[0]: id 1111"),
    "id as a list": (image(id="[11]"), "images[0]: id [11] is not a whole number"),
    "same image twice": (whole(images=json.dumps(small_coco()["images"][:1] * 2)), "images[1]: id 11 is taken"),
    # files
    "parent folder": (image(file_name='"../11.png"'), "leaves the folder"),
    "parent after a folder": (image(file_name='"a/../../secret.png"'), "leaves the folder"),
    "absolute": (image(file_name='"/etc/passwd"'), "leaves the folder"),
    "absolute after slashes": (image(file_name='"//etc/passwd"'), "leaves the folder"),
    "home": (image(file_name='"~/11.png"'), "image files are not in"),
    "address": (image(file_name='"http://localhost/11.png"'), "image files are not in"),
    "the folder itself": (image(file_name='"./"'), "image files are not in"),
    "end of a C string": (image(file_name='"11.png\\u0000.jpg"'), "is no text"),
    "half a character": (image(file_name='"\\ud800.png"'), "image files are not in"),
    "too long": (image(file_name=f'"{"a" * 5000}.png"'), "is too long for a file"),
    "file as an object": (image(file_name='{"name": "11.png"}'), "is no text"),
    # numbers
    "negative width": (image(width="-80"), "width -80 is not a whole number of pixels above 0"),
    "true height": (image(height="true"), "height True is not a whole number of pixels above 0"),
    "width of a million digits' worth": (image(width="1e400"), "width inf is not a whole number"),
    "box with NaN": (annotation(bbox="[1, NaN, 3, 4]"), "bbox [1, nan, 3, 4] is not"),
    "box without an end": (annotation(bbox="[0, 0, 1e999, 4]"), "bbox [0, 0, inf, 4] is not"),
    "box of huge integers": (annotation(bbox=f"[0, 0, {'9' * 400}, 4]"), "bbox [0, 0, 9999"),
    "box as an object": (annotation(bbox='{"x": 1, "y": 2, "w": 3, "h": 4}'), "bbox {'h': 4"),
    "box in a box": (annotation(bbox="[[1, 2, 3, 4]]"), "bbox [[1, 2, 3, 4]] is not"),
    "box of booleans": (annotation(bbox="[true, false, true, true]"), "bbox [True, False, True, True] is not"),
    "area as text": (annotation(area='"12"'), "area '12' is not"),
    "crowd as a list": (annotation(iscrowd="[1]"), "iscrowd [1] is neither 0 nor 1"),
    "category as a list": (annotation(category_id="[2]"), "category_id [2] is not the id of a category"),
    "run lengths of the whole memory": (
        annotation(segmentation='{"size": [99999999999, 99999999999], "counts": [1]}'),
        "is not the height and width of the image",
    ),
    "run lengths cut off": (annotation(segmentation='{"size": [60, 80], "counts": "l1Xb4l"}'), "are no run lengths"),
    # names
    "no name": (whole(categories='[{"id": 2}]', annotations="[]"), "category 2: name None is no text"),
    "name that cannot be written": (
        whole(categories='[{"id": 2, "name": "\\ud800"}]', annotations="[]"),
        "category 2: name '\\ud800' is no text",
    ),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_one_message(tmp_path, text, expected):
    images, json_file = write_coco(tmp_path, None)
    json_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = {*tmp_path.rglob("*")}
    with pytest.raises(UserError) as error:
        register_coco_folder(images, json_file, output_dir=tmp_path / "output")
    message = str(error.value)
    assert str(json_file) in message
    assert expected in message
    message.encode()  # can be printed
    assert len(message) < 1000
    assert {*tmp_path.rglob("*")} == before


def test_a_link_in_the_folder_may_lead_out(tmp_path):
    images, json_file = write_coco(tmp_path, small_coco())
    os.rename(images / "12.png", tmp_path / "elsewhere.png")
    (images / "12.png").symlink_to(tmp_path / "elsewhere.png")
    name = register_coco_folder(images, json_file, output_dir=tmp_path)
    assert DatasetCatalog.get(name)[1]["file_name"] == str(images / "12.png")


def test_names_with_paths_in_them_write_nothing_outside(tmp_path):
    folder = tmp_path / "data" / ".. ;$(touch trap) "
    content = small_coco()
    content["categories"][0]["name"] = "../../trap"
    del content["annotations"][0]["area"]  # so that a repaired json is written
    images, json_file = write_coco(folder, content)
    os.rename(images, folder / "..%2f..")
    os.rename(json_file, folder / "....json")
    before = {*tmp_path.rglob("*")}
    name = register_coco_folder(folder / "..%2f..", folder / "....json", output_dir=tmp_path / "output")
    written = {*tmp_path.rglob("*")} - before - {tmp_path / "output", tmp_path / "output" / "annotations"}
    assert [path.parent for path in written] == [tmp_path / "output" / "annotations"]
    assert Path(MetadataCatalog.get(name).json_file) in written
    assert os.sep not in name
