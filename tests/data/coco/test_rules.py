"""The single rules are tested where they stop loading, in test_annotations."""

from fcos_rpn.data.coco.rules import (
    annotation_problems,
    category_problems,
    file_name_problem,
    id_problems,
    image_problems,
)
from tests.data.small_coco import coco_with_shapes


def test_what_is_right_has_no_problems():
    content = coco_with_shapes()
    images, categories = ({entry["id"]: entry for entry in content[key]} for key in ("images", "categories"))
    for key in ("images", "categories", "annotations"):
        assert not [*id_problems(key, content[key])]
    assert not [problem for category in categories.values() for problem in category_problems(category)]
    assert not [problem for image in images.values() for problem in image_problems(image)]
    for annotation in content["annotations"]:
        assert not [*annotation_problems(annotation, images, categories)]


def test_all_problems_of_an_entry_are_said():
    content = coco_with_shapes()
    images, categories = ({entry["id"]: entry for entry in content[key]} for key in ("images", "categories"))
    wrong = {"image_id": 99, "category_id": 99, "bbox": [0, 0, -1, 1], "area": -1, "iscrowd": 2, "ignore": 1,
             "segmentation": 1, "keypoints": 1}  # fmt: skip
    assert [problem.kind for problem in annotation_problems(wrong, images, categories)] == [
        "unknown image", "unknown category", "degenerate box", "wrong area", "wrong iscrowd", "ignore",
        "wrong segmentation", "wrong keypoints",
    ]  # fmt: skip
    assert [problem.kind for problem in image_problems({"id": 1, "file_name": "/a.png", "width": 0})] == [
        "file outside the folder",
        "wrong image size",
        "wrong image size",
    ]
    assert [problem.kind for problem in category_problems({"id": 1, "keypoints": 3})] == ["wrong category"] * 2


def test_ids_are_numbered_by_their_position():
    entries = [{"id": 1}, 3, {"id": 1}, {"id": 1 << 62}, {}, {"id": -(1 << 62) + 1}]
    found = [(position, problem.kind) for position, problem in id_problems("images", entries)]
    assert found == [(1, "no object"), (2, "duplicate id"), (3, "wrong id"), (4, "wrong id")]
    assert [position for position, _ in id_problems("annotations", entries)] == [1, 2, 3]  # theirs may be missing


def test_shapes_are_held_against_image_and_category():
    content = coco_with_shapes()
    images, categories = ({entry["id"]: entry for entry in content[key]} for key in ("images", "categories"))
    dog, _, crowd = content["annotations"]
    images[13]["height"] = 61
    categories[5]["keypoints"].append("left ear")
    (problem,) = annotation_problems(dog, images, categories)
    assert problem.text.startswith("keypoints: 2 of them, but the category names 3")
    (problem,) = annotation_problems(crowd, images, categories)
    assert problem.text.startswith("segmentation: size [60, 80] is not the height and width of the image, [61, 80]")
    images[13]["height"] = "61"  # a problem of the image alone
    assert not [*annotation_problems(crowd, images, categories)]


def test_file_names_within_the_folder():
    assert all(file_name_problem({"file_name": name}) is None for name in ("a.png", "b/a.png", "b/../a.png", "..a.png"))
    assert all(file_name_problem({"file_name": name}) for name in ("", 3, None, "..", "b/../../a.png", "/a.png"))
