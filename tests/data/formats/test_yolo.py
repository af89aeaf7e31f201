import pytest
import yaml
from PIL import Image

from fcos_rpn.data.formats.splits import Split
from fcos_rpn.data.formats.yolo import read_yolo, write_yolo
from fcos_rpn.errors import UserError
from tests.data.small_coco import small_coco, write_coco


@pytest.fixture
def folder(tmp_path):
    """Pictures of 80 x 60 pixels: two to train on, the one in a subfolder without a label file, and one more."""
    for name in ("train/1.png", "train/night/2.webp", "val/3.jpg"):
        picture = tmp_path / "images" / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60)).save(picture)
    for name, text in {"train/1.txt": "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.1 0.2\n", "val/3.txt": ""}.items():
        label = tmp_path / "labels" / name
        label.parent.mkdir(parents=True)
        label.write_text(text)
    describe(tmp_path, names=["cat: big", "dog, 'small'"])
    return tmp_path


def describe(folder, **changes):
    data = {"train": "images/train", "val": "images/val", "names": ["cat", "dog"]} | changes
    (folder / "data.yaml").write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))


def test_boxes_classes_splits_and_pictures_without_labels(folder):
    train, val = read_yolo(folder / "data.yaml")
    assert (train.name, train.images) == ("train", folder / "images" / "train")
    assert train.content["images"] == [
        {"id": 1, "file_name": "1.png", "width": 80, "height": 60},
        {"id": 2, "file_name": "night/2.webp", "width": 80, "height": 60},
    ]
    names = [{"id": 1, "name": "cat: big"}, {"id": 2, "name": "dog, 'small'"}]
    assert train.content["categories"] == val.content["categories"] == names
    dog, cat = train.content["annotations"]
    # The center 40, 30 and the size 20 x 30; the center 8, 12 and the size 8 x 12.
    assert dog == {"id": 1, "image_id": 1, "category_id": 2, "iscrowd": 0, "bbox": [30, 15, 20, 30], "area": 600}
    assert cat["bbox"] == pytest.approx([4, 6, 8, 12])
    assert (val.name, len(val.content["images"]), val.content["annotations"]) == ("val", 1, [])


def test_names_as_a_dict_with_gaps(folder):
    describe(folder, names={7: "dog", 0: "cat", 1: "emu"})
    (folder / "labels" / "train" / "1.txt").write_text("7 0.5 0.5 0.25 0.5\n")
    train, _ = read_yolo(folder / "data.yaml")
    assert [category["name"] for category in train.content["categories"]] == ["cat", "emu", "dog"]
    assert [annotation["category_id"] for annotation in train.content["annotations"]] == [3]


def test_a_polygon_becomes_an_outline_and_its_box(folder):
    (folder / "labels" / "train" / "1.txt").write_text("0 0.25 0.5 0.75 0.5 0.5 1\n")
    (annotation,) = read_yolo(folder / "data.yaml")[0].content["annotations"]
    assert annotation["segmentation"] == [[20, 30, 60, 30, 40, 60]]
    assert annotation["bbox"] == [20, 30, 40, 30]


def test_sizes_are_those_after_the_rotation(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (80, 60)).save(folder / "images" / "val" / "3.jpg", exif=exif)
    (image,) = read_yolo(folder / "data.yaml")[1].content["images"]
    assert (image["width"], image["height"]) == (60, 80)


@pytest.mark.parametrize(
    "train",
    ["../images/train", ["images/train/night", "images/train"], "list.txt"],
    ids=["as Roboflow writes it", "list", "text file"],
)
def test_where_pictures_are(folder, train):
    (folder / "list.txt").write_text("./images/train/night/2.webp\nimages/train/1.png\n")
    describe(folder, train=train, path="/of/another/machine")
    split = read_yolo(folder / "data.yaml")[0]
    assert {image["file_name"] for image in split.content["images"]} == {"1.png", "night/2.webp"}
    assert len(split.content["annotations"]) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"names": None}, "data.yaml: needs the key 'names'"),
        ({"train": None, "val": None}, "data.yaml: needs the key 'names' and one of the keys 'train'"),
        ({"names": "cat"}, "data.yaml: 'names' must be a list"),
        ({"train": "nowhere"}, "data.yaml: train: there is no "),
        ({"train": "labels"}, "labels: holds no pictures"),
        ({"train": None, "val": "bare"}, "data.yaml: no picture has a label file; the first would be "),
        ({"kpt_shape": [17, 3]}, "data.yaml: has keypoints"),
    ],
)
def test_what_is_wrong_with_a_data_yaml(folder, changes, expected):
    (folder / "bare").mkdir()
    Image.new("RGB", (80, 60)).save(folder / "bare" / "4.png")
    describe(folder, **changes)
    with pytest.raises(UserError) as error:
        read_yolo(folder / "data.yaml")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0.2", "line 2 is no box: '0 0.5 0.5 0.2'"),
        ("cat 0.5 0.5 0.2 0.2", "line 2 is no box"),
        ("0 0.5 0.5 nan 0.2", "line 2 is no box"),
        ("0 40 30 20 30", "line 2 has numbers outside 0 to 1"),
        ("0 0.5 0.5 -0.2 0.2", "line 2 has numbers outside 0 to 1"),
        ("2 0.5 0.5 0.2 0.2", "line 2 has class 2, but the names have [0, 1]"),
    ],
)
def test_what_is_wrong_with_a_label(folder, line, expected):
    file = folder / "labels" / "train" / "1.txt"
    file.write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(UserError) as error:
        read_yolo(folder / "data.yaml")
    assert str(error.value).startswith(f"{file}: {expected}")


def test_from_yolo_and_back(folder, tmp_path):
    splits = read_yolo(folder / "data.yaml")
    again = write_yolo(splits, tmp_path / "again")
    assert (again.parent / "labels/train/1.txt").read_text() == "1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.1 0.2\n"
    for split, same in zip(splits, read_yolo(again), strict=True):
        assert (split.name, split.content) == (same.name, same.content)


def test_crowds_are_not_written_and_ids_become_numbers(tmp_path):
    images, _ = write_coco(tmp_path, small_coco())
    data_yaml = write_yolo([Split("train", images, small_coco())], tmp_path / "yolo")
    labels = {file.name: file.read_text() for file in (tmp_path / "yolo" / "labels" / "train").iterdir()}
    # The dog is the second class: x 10 to 40 of 80, y 20 to 60 of 60.
    dog_and_cat = "1 0.3125 0.6666666667 0.375 0.6666666667\n0 0.5 0.5 1 1\n"
    assert labels == {"11.txt": dog_and_cat, "12.txt": "", "13.txt": "", "14.txt": ""}
    assert yaml.safe_load(data_yaml.read_text())["names"] == {0: "cat", 1: "dog", 2: "parrot"}
    content = small_coco()
    content["images"][1]["file_name"] = "11.jpg"
    (images / "12.png").rename(images / "11.jpg")
    with pytest.raises(UserError, match=r"11\.jpg: another picture of train has the same name but for its suffix"):
        write_yolo([Split("train", images, content)], tmp_path / "other")
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        write_yolo([Split("train", images, small_coco())], tmp_path / "yolo")
