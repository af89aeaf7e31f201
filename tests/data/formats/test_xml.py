import sys

import pytest
from PIL import Image

from fcos_rpn.data.formats.xml import read_cvat, read_voc
from fcos_rpn.errors import UserError

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def write_voc(folder, *, size="<size><width>80</width><height>60</height></size>"):
    """Picture b has a dog and a difficult cat, picture a has no objects, picture c no XML."""
    pytest.importorskip("hotcoco")
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (80, 60)).save(folder / "JPEGImages" / f"{name}.png")
    objects = {"a": "", "b": OBJECT.format("dog", 0, 1, 1, 20, 30) + OBJECT.format("cat", 1, 5, 5, 9, 9)}
    for name, text in objects.items():
        # The file's name was changed after the annotation, as often.
        xml = f"<annotation><filename>{name}_old.jpg</filename>{size}{text}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(xml)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("b\nc\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    (folder / "ImageSets" / "Main" / "dog_train.txt").write_text("b 1\nc -1\n")
    return folder


@pytest.mark.parametrize("size", ["<size><width>80</width><height>60</height></size>", ""])
def test_boxes_classes_splits_and_pictures_without_labels(tmp_path, size):
    train, val = read_voc(write_voc(tmp_path, size=size))
    assert (train.name, train.images, val.name) == ("train", tmp_path / "JPEGImages", "val")
    images = [(image["file_name"], image["width"], image["height"]) for image in train.content["images"]]
    assert images == [("b.png", 80, 60), ("c.png", 80, 60)]
    assert len({image["id"] for image in train.content["images"]}) == 2
    assert [image["file_name"] for image in val.content["images"]] == ["a.png"]
    # VOC's pixels count from 1, and a box holds its last one.
    boxes = [(entry["bbox"], entry["category_id"], entry["iscrowd"]) for entry in train.content["annotations"]]
    assert boxes == [([0, 0, 20, 30], 2, 0), ([4, 4, 5, 5], 1, 1)]
    assert {entry["image_id"] for entry in train.content["annotations"]} == {train.content["images"][0]["id"]}
    assert val.content["annotations"] == []
    for split in (train, val):
        assert [(entry["id"], entry["name"]) for entry in split.content["categories"]] == [(1, "cat"), (2, "dog")]


def test_without_lists_all_pictures_are_one_split_and_labels_txt_orders_the_classes(tmp_path):
    write_voc(tmp_path)
    for file in (tmp_path / "ImageSets" / "Main").iterdir():
        file.unlink()
    (tmp_path / "labels.txt").write_text("zebra\ndog\ncat\n")
    (tmp_path / "JPEGImages").rename(tmp_path / "pictures")
    (split,) = read_voc(tmp_path, tmp_path / "pictures")
    assert [image["file_name"] for image in split.content["images"]] == ["a.png", "b.png", "c.png"]
    assert [entry["name"] for entry in split.content["categories"]] == ["zebra", "dog", "cat"]


def test_what_is_wrong_with_a_voc_folder(tmp_path, monkeypatch):
    def refused() -> str:
        with pytest.raises(UserError) as error:
            read_voc(tmp_path)
        return str(error.value)

    write_voc(tmp_path)
    (tmp_path / "JPEGImages" / "a.png").unlink()
    assert refused().startswith(f"{tmp_path / 'ImageSets' / 'Main' / 'val.txt'}: there is no picture ")
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation>")
    assert "b.xml" in refused()
    for file in (tmp_path / "Annotations").iterdir():
        file.unlink()
    assert refused().startswith(f"{tmp_path / 'Annotations'}: holds no XML files")
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert refused().startswith("hotcoco reads XML files and is not installed: pip install")
    (tmp_path / "JPEGImages").rename(tmp_path / "elsewhere")
    assert refused().startswith(f"{tmp_path / 'JPEGImages'}: there is no such folder of images")


def test_cvat(tmp_path):
    pytest.importorskip("hotcoco")
    (tmp_path / "x").mkdir()
    for name in ("x/1.png", "2.png"):
        Image.new("RGB", (80, 60)).save(tmp_path / name)
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("dog", "cat"))
    (tmp_path / "val.xml").write_text(
        f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
        '<image id="0" name="x/1.png" width="80" height="60">'
        '<box label="cat" occluded="0" xtl="1" ytl="2" xbr="5" ybr="8" z_order="0"></box></image>'
        '<image id="3" name="2.png" width="80" height="60"/></annotations>'
    )
    (split,) = read_cvat(tmp_path / "val.xml", tmp_path)
    assert split.name == "val"
    assert [image["file_name"] for image in split.content["images"]] == ["x/1.png", "2.png"]
    assert [entry["name"] for entry in split.content["categories"]] == ["dog", "cat"]
    assert [(entry["bbox"], entry["category_id"]) for entry in split.content["annotations"]] == [([1, 2, 4, 6], 2)]
