import json
import logging
from collections.abc import Iterator
from itertools import islice

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from torch import tensor
from torch.utils.data import SequentialSampler

from fcos_rpn.data.datasets import class_names, register_coco_folder, require_files
from fcos_rpn.data.mapper import CheckedDatasetMapper
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


def renamed_classes(**names: str) -> dict:
    content = small_coco()
    for category in content["categories"]:
        category["name"] = names.get(category["name"], category["name"])
    return content


# Registration


def test_clean_folder_is_registered_as_it_is(tmp_path):
    images, json_file = write_coco(tmp_path, small_coco())
    name = register_coco_folder(images, str(json_file), output_dir=tmp_path / "output")
    metadata = MetadataCatalog.get(name)
    assert name == "photos_pets"
    assert (metadata.json_file, metadata.image_root) == (str(json_file), str(images))
    assert metadata.evaluator_type == "coco"
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


def test_classes_are_known_before_loading_in_the_order_of_ids(tmp_path):
    content = small_coco()
    content["categories"].reverse()
    name = register_coco_folder(*write_coco(tmp_path, content), output_dir=tmp_path)
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog", "parrot"]
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {2: 0, 5: 1, 9: 2}
    DatasetCatalog.get(name)  # sets the same entries, and refuses other values


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


def test_models_with_masks_have_a_copy_of_their_own(tmp_path):
    pair = write_coco(tmp_path, small_coco())
    names = [register_coco_folder(*pair, output_dir=tmp_path, with_masks=with_masks) for with_masks in (False, True)]
    assert names == ["photos_pets", "photos_pets_2"]
    assert [len(DatasetCatalog.get(name)[0]["annotations"]) for name in names] == [2, 0]  # without outlines


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


def test_errors_register_nothing(tmp_path):
    content = small_coco()
    content["annotations"][0]["category_id"] = 3
    images, json_file = write_coco(tmp_path, content)
    with pytest.raises(UserError, match=r"annotation 101 of image 11 \(11.png\): category_id 3"):
        register_coco_folder(images, json_file, output_dir=tmp_path)
    assert "photos_pets" not in DatasetCatalog


def test_keypoints_of_a_category_give_the_flip_map(tmp_path):
    content = small_coco()
    content["categories"][0]["keypoints"] = ["nose", "left_eye", "right_eye", "left_wing"]
    name = register_coco_folder(*write_coco(tmp_path, content), output_dir=tmp_path)
    assert MetadataCatalog.get(name).keypoint_names == ("nose", "left_eye", "right_eye", "left_wing")
    assert MetadataCatalog.get(name).keypoint_flip_map == (("left_eye", "right_eye"),)
    assert create_keypoint_hflip_indices(name) == [0, 2, 1, 3]


def test_keypoints_of_people_are_those_of_detectron2(tmp_path):
    builtin = MetadataCatalog.get("keypoints_coco_2017_val")
    content = small_coco()
    content["categories"][0]["keypoints"] = list(builtin.keypoint_names)
    name = register_coco_folder(*write_coco(tmp_path, content), output_dir=tmp_path)
    assert MetadataCatalog.get(name).keypoint_names == builtin.keypoint_names
    assert MetadataCatalog.get(name).keypoint_flip_map == builtin.keypoint_flip_map


# Through Detectron2's loaders and evaluator


@pytest.mark.parametrize("batch_size", [1, 2])
def test_whole_batches_without_boxes_come_through_the_loader(tmp_path, batch_size):
    content = small_coco()
    # Images 13 and 14 keep their boxes; 11 and 12 have none.
    content["annotations"] = [
        {"image_id": 13, "category_id": 9, "bbox": [10, 20, 30, 60]},  # clipped to a height of 40
        {"image_id": 14, "category_id": 2, "bbox": [0, 0, 8, 6]},
        {"image_id": 14, "category_id": 5, "bbox": [8, 6, 8, 6], "iscrowd": 1},
        {"image_id": 11, "category_id": 5, "bbox": [8, 6, 8, 0]},
    ]
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (register_coco_folder(*write_coco(tmp_path, content), output_dir=tmp_path),)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = batch_size
    cfg.INPUT.MIN_SIZE_TRAIN = (120,)
    cfg.INPUT.RANDOM_FLIP = "none"
    mapper = CheckedDatasetMapper(cfg, True)
    loader = build_detection_train_loader(cfg, mapper=mapper, sampler=SequentialSampler(range(4)))

    batches = list(islice(loader, 4 // batch_size))
    assert [len(batch) for batch in batches] == [batch_size] * (4 // batch_size)
    inputs = [one for batch in batches for one in batch]
    assert [one["image_id"] for one in inputs] == [11, 12, 13, 14]
    # Pictures of 80 x 60 are shown at 160 x 120.
    assert all(one["image"].shape == (3, 120, 160) for one in inputs)
    boxes = [one["instances"].gt_boxes.tensor for one in inputs]
    assert [tuple(of_image.shape) for of_image in boxes] == [(0, 4), (0, 4), (1, 4), (1, 4)]
    assert boxes[2].tolist() == [[20, 40, 80, 120]]
    assert boxes[3].tolist() == [[0, 0, 16, 12]]
    assert [one["instances"].gt_classes.tolist() for one in inputs] == [[], [], [2], [0]]


def test_perfect_detections_have_full_precision(tmp_path):
    name = register_coco_folder(*write_coco(tmp_path, small_coco()), output_dir=tmp_path)
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS = 0
    evaluator = COCOEvaluator(name, tasks=("bbox",), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for inputs in build_detection_test_loader(cfg, name, mapper=CheckedDatasetMapper(cfg, False)):
        found = {11: ([[10.0, 20, 40, 60], [0, 0, 80, 60]], [1, 0])}.get(inputs[0]["image_id"], ([], []))
        instances = Instances((60, 80))
        instances.pred_boxes = Boxes(tensor(found[0]).reshape(-1, 4))
        instances.pred_classes = tensor(found[1]).long()
        instances.scores = tensor([0.9] * len(instances))
        evaluator.process(inputs, [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    assert (results["AP-cat"], results["AP-dog"]) == pytest.approx((100, 100))


# Names


def test_class_names_shared_by_a_folder_and_a_registered_set(tmp_path):
    images, json_file = write_coco(tmp_path, small_coco())
    name = register_coco_folder(images, json_file, output_dir=tmp_path)
    # As Detectron2's tutorial registers: the class names come with the annotations.
    register_coco_instances("my_pets", {}, str(json_file), str(images))
    assert class_names([name, "my_pets"]) == ["cat", "dog", "parrot"]


def test_class_names_of_a_set_of_detectron2_need_no_files():
    names = class_names(("coco_2017_train", "coco_2017_val"))
    assert len(names) == 80
    assert names[0] == "person"


@pytest.mark.parametrize(
    ("other_names", "expected"),
    [
        ({"cat": "lynx", "parrot": "owl"}, "only {0} has cat, parrot; only {1} has lynx, owl;"),
        ({"cat": "dog", "dog": "cat"}, "their order differs: cat, dog, parrot against dog, cat, parrot;"),
    ],
)
def test_sets_with_different_classes(tmp_path, other_names, expected):
    contents = [small_coco(), renamed_classes(**other_names)]
    pairs = [write_coco(tmp_path / str(i), content) for i, content in enumerate(contents)]
    with pytest.raises(UserError) as error:
        class_names([register_coco_folder(*pair, output_dir=tmp_path) for pair in pairs])
    files = [json_file for _, json_file in pairs]
    message = f"data sets {files[0]} and {files[1]} have different classes: {expected.format(*files)}"
    assert str(error.value).startswith(message)


def test_two_classes_of_one_name():
    MetadataCatalog.get("twins").thing_classes = ["cat", "dog", "cat"]
    DatasetCatalog.register("twins", lambda: [])
    with pytest.raises(UserError, match="'twins' has several classes named 'cat'"):
        class_names(["twins"])


@pytest.mark.parametrize("check", [require_files, lambda name: class_names([name])])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coco_2017_vall", "'coco_2017_vall' is not registered; similar names that are: coco_2017_val"),
        ("/data/photos", "'/data/photos' is not registered; a folder in COCO format is given as --train IMAGES JSON"),
    ],
)
def test_name_that_is_not_registered(check, name, expected):
    with pytest.raises(UserError) as error:
        check(name)
    assert expected in str(error.value)
    assert "--train IMAGES JSON" in str(error.value)


def test_no_data_set_at_all():
    with pytest.raises(UserError, match=r"name one in DATASETS\.TRAIN"):
        class_names(())


def test_set_without_class_names():
    DatasetCatalog.register("nameless", lambda: [])
    with pytest.raises(UserError, match="'nameless' has no class names"):
        class_names(["nameless"])


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


def test_missing_folder_of_images(tmp_path):
    images, json_file = write_coco(tmp_path, small_coco())
    name = register_coco_folder(images, json_file, output_dir=tmp_path)
    require_files(name)
    images.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"'photos_pets': image_root .*photos does not exist"):
        require_files(name)
