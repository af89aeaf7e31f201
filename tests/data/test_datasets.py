import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from pycocotools.coco import COCO

from fcos_rpn.data.datasets import class_names, register_coco_folder, require_files
from fcos_rpn.errors import UserError
from tests.data.small_coco import small_coco, write_coco


@pytest.fixture(autouse=True)
def own_catalogs() -> Iterator[None]:
    """What a test registers is gone after it."""
    catalogs = DatasetCatalog, MetadataCatalog
    known = [set(catalog) for catalog in catalogs]
    yield
    for catalog, names in zip(catalogs, known, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)


# Registration


def test_clean_folder_is_registered_as_it_is(tmp_path):
    content = small_coco()
    content["categories"].reverse()
    images, json_file = write_coco(tmp_path, content)
    name = register_coco_folder(images, str(json_file), output_dir=tmp_path / "output")
    metadata = MetadataCatalog.get(name)
    assert name == "photos_pets"
    assert (metadata.json_file, metadata.image_root) == (str(json_file), str(images))
    assert metadata.evaluator_type == "coco"
    assert metadata.thing_classes == ["cat", "dog", "parrot"]  # before loading, in the order of ids
    assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1, 9: 2}
    assert metadata.get("keypoint_names") is None
    assert not (tmp_path / "output").exists()

    entries = DatasetCatalog.get(name)
    assert [entry["image_id"] for entry in entries] == [11, 12, 13, 14]
    assert [entry["file_name"] for entry in entries] == [str(images / f"{i}.png") for i in (11, 12, 13, 14)]
    # Category ids 2, 5 and 9 are labels 0, 1 and 2.
    assert [[(a["bbox"], a["category_id"], a["iscrowd"]) for a in entry["annotations"]] for entry in entries] == [
        [([10, 20, 30, 40], 1, 0), ([0, 0, 80, 60], 0, 0)],
        [],
        [([5.5, 5, 20, 10], 0, 1)],
        [],
    ]


def test_repaired_json_is_written_and_used(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    content = small_coco()
    content["annotations"][0]["bbox"] = [70, 20, 30, 40]
    content["annotations"][2]["bbox"] = [5, 5, 0, 10]
    images, json_file = write_coco(tmp_path, content)
    original = json_file.read_bytes()
    name = register_coco_folder(images, json_file, output_dir=tmp_path / "output")

    (repaired,) = (tmp_path / "output" / "annotations").iterdir()
    assert repaired.name.startswith("photos_pets-")
    assert json_file.read_bytes() == original
    assert f"{json_file}: the repaired annotations are in {repaired}" in caplog.messages
    assert MetadataCatalog.get(name).json_file == str(repaired)
    assert sorted(COCO(str(repaired)).anns) == [101, 102]
    first, _, third, _ = DatasetCatalog.get(name)
    assert first["annotations"][0]["bbox"] == [70, 20, 10, 40]
    assert third["annotations"] == []


def test_a_json_with_a_byte_order_mark_is_copied_without(tmp_path):
    images, json_file = write_coco(tmp_path, small_coco())
    json_file.write_bytes(b"\xef\xbb\xbf" + json_file.read_bytes())
    name = register_coco_folder(images, json_file, output_dir=tmp_path)
    assert len(DatasetCatalog.get(name)) == 4
    assert json.loads(Path(MetadataCatalog.get(name).json_file).read_text()) == small_coco()
    assert MetadataCatalog.get(name).repairs == {}


def test_same_pair_has_one_name_and_another_pair_its_own(tmp_path, monkeypatch):
    content = small_coco()
    del content["annotations"][0]["area"]
    first = write_coco(tmp_path / "one", content)
    second = write_coco(tmp_path / "two", content)
    names = [register_coco_folder(*pair, output_dir=tmp_path) for pair in (first, second, first, second)]
    assert names == ["photos_pets", "photos_pets_2", "photos_pets", "photos_pets_2"]
    assert len([*(tmp_path / "annotations").iterdir()]) == 2
    monkeypatch.chdir(tmp_path / "two")
    assert register_coco_folder("photos", "../two/pets.json", output_dir=".") == "photos_pets_2"
    with_masks = register_coco_folder(*first, output_dir=tmp_path, with_masks=True)
    assert with_masks == "photos_pets_3"
    assert not DatasetCatalog.get(with_masks)[0]["annotations"]  # without outlines


def test_a_changed_json_is_read_again(tmp_path):
    content = small_coco()
    del content["annotations"][0]["area"]
    pair = write_coco(tmp_path, content)
    register_coco_folder(*pair, output_dir=tmp_path)
    content["annotations"][0]["bbox"] = [1, 1, 5, 5]
    pair[1].write_text(json.dumps(content, indent=1))
    name = register_coco_folder(*pair, output_dir=tmp_path)
    assert name == "photos_pets_2"
    assert DatasetCatalog.get(name)[0]["annotations"][0]["bbox"] == [1, 1, 5, 5]
    assert len([*(tmp_path / "annotations").iterdir()]) == 2  # no copy takes another's place


def test_text_ids_are_numbered_and_kept_in_the_metadata(tmp_path):
    content = small_coco()
    for image in content["images"]:
        image["id"] = f"0{image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"0{annotation['image_id']}"
    name = register_coco_folder(*write_coco(tmp_path, content), output_dir=tmp_path)
    assert [record["image_id"] for record in DatasetCatalog.get(name)] == [1, 2, 3, 4]
    assert MetadataCatalog.get(name).original_image_ids == {1: "011", 2: "012", 3: "013", 4: "014"}
    assert register_coco_folder(*write_coco(tmp_path / "plain", small_coco()), output_dir=tmp_path) == "photos_pets_2"
    assert "original_image_ids" not in MetadataCatalog.get("photos_pets_2").as_dict()


@pytest.mark.parametrize(
    ("ids", "numbers", "original"),
    [
        ([5, 0], [5, 0], None),
        (["000001", "x"], [1, 2], {1: "000001", 2: "x"}),
        ([-1, 2**60], [1, 2], {1: -1, 2: 2**60}),
        ([7, 7], [1, 2], {1: 7, 2: 7}),
        ([None, None], [1, 2], None),
    ],
)
def test_images_of_sets_in_code_get_numbers(ids, numbers, original):
    records = [{} if image_id is None else {"image_id": image_id} for image_id in ids]
    DatasetCatalog.register("mine", lambda: records)
    for _ in range(2):  # once more changes nothing
        require_files("mine")
        assert [record["image_id"] for record in DatasetCatalog.get("mine")] == numbers
    assert MetadataCatalog.get("mine").get("original_image_ids") == original
    assert [record.get("image_id") for record in records] == ids


def test_keypoints_of_a_category_give_the_flip_map(tmp_path):
    content = small_coco()
    content["categories"][0]["keypoints"] = ["nose", "left_eye", "right_eye", "left_wing"]
    name = register_coco_folder(*write_coco(tmp_path, content), output_dir=tmp_path)
    assert MetadataCatalog.get(name).keypoint_names == ("nose", "left_eye", "right_eye", "left_wing")
    assert MetadataCatalog.get(name).keypoint_flip_map == (("left_eye", "right_eye"),)
    assert create_keypoint_hflip_indices(name) == [0, 2, 1, 3]


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


# Names


def test_class_names_shared_by_a_folder_and_a_registered_set(tmp_path):
    images, json_file = write_coco(tmp_path, small_coco())
    name = register_coco_folder(images, json_file, output_dir=tmp_path)
    # As Detectron2's tutorial registers: the class names come with the annotations.
    register_coco_instances("my_pets", {}, str(json_file), str(images))
    assert class_names([name, "my_pets"]) == ["cat", "dog", "parrot"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "name one in DATASETS.TRAIN"),
        (["nameless"], "'nameless' has no class names"),
        (["twins"], "'twins' has several classes named 'cat'"),
        (["lynxes", "cats"], "only 'lynxes' has lynx; only 'cats' has cat;"),
        (["cats", "reordered"], "their order differs: cat, dog against dog, cat;"),
        (["coco_2017_vall"], "is not registered; similar names that are: coco_2017_val"),
        (["/data/photos"], "is not registered; a folder in COCO format is given as --train IMAGES JSON"),
    ],
)
def test_wrong_names_and_classes(names, expected):
    classes = {"twins": ["cat", "dog", "cat"], "lynxes": ["lynx", "dog"], "cats": ["cat", "dog"]}
    for name, given in (classes | {"reordered": ["dog", "cat"], "nameless": None}).items():
        DatasetCatalog.register(name, lambda: [])
        if given:
            MetadataCatalog.get(name).thing_classes = given
    with pytest.raises(UserError) as error:
        class_names(names)
    assert expected in str(error.value)


def test_missing_files_of_a_set_of_detectron2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", "/elsewhere")
    metadata = {"json_file": "gone.json", "image_root": str(tmp_path)}
    MetadataCatalog.get("away").set(**metadata)
    DatasetCatalog.register("away", lambda: [])
    with pytest.raises(UserError) as error:
        require_files("away")
    assert str(error.value).startswith(f"data set 'away': json_file {tmp_path}/gone.json does not exist;")
    assert "DETECTRON2_DATASETS" in str(error.value)
    assert "(now /elsewhere)" in str(error.value)
    (tmp_path / "gone.json").write_text(json.dumps(small_coco()))
    require_files("away")
    MetadataCatalog.get("moved").image_root = str(tmp_path / "moved")
    DatasetCatalog.register("moved", lambda: [])
    with pytest.raises(UserError, match=r"'moved': image_root .*moved does not exist"):
        require_files("moved")
