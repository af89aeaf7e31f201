import json
from typing import Any

import pytest

from fcos_rpn.data.coco.annotations import CheckedAnnotations
from fcos_rpn.data.coco.check import check_json, compare_classes
from tests.data.small_coco import small_coco, write_coco


def check(tmp_path, content: object, **settings: Any) -> CheckedAnnotations:
    images, json_file = tmp_path / "photos", tmp_path / "pets.json"
    if not images.is_dir():
        write_coco(tmp_path, content)
    json_file.write_text(json.dumps(content))
    return check_json(json_file, images, **settings)


def lines(checked: CheckedAnnotations) -> list[str]:
    return [str(finding) for finding in checked.findings]


def with_annotations(*annotations: dict) -> dict:
    """Of image 11, of 80 x 60 pixels; ids from 201 on."""
    defaults = {"image_id": 11, "category_id": 2, "iscrowd": 0, "area": 1.0}
    return small_coco() | {"annotations": [defaults | {"id": i} | a for i, a in enumerate(annotations, start=201)]}


def test_classes_and_images_without_boxes(tmp_path):
    """Image 13 has a crowd only."""
    assert lines(check(tmp_path, small_coco())) == [
        "warning: category 9 (parrot): no boxes; nothing can be learned of this class",
        "warning: 3 of 4 images have no boxes, first image 12; they train as background",
    ]


def test_a_json_or_folder_that_is_not_there_is_an_error(tmp_path):
    (finding,) = check_json(tmp_path / "nowhere.json", tmp_path).findings
    assert str(finding).startswith("error: cannot be read (No such file")
    (finding,) = check_json(tmp_path / "nowhere.json", tmp_path / "nowhere").findings
    assert "there is no such folder of images" in str(finding)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ({"bbox": [5, 5, 0, 10]}, "bbox [5, 5, 0, 10] has zero size; training drops it: correct or delete it"),
        ({"bbox": [80, 5, 5, 5]}, "bbox [80, 5, 5, 5] is wholly outside the image; training drops it"),
        ({"bbox": [70, 5, 11, 5]}, "bbox [70, 5, 11, 5] is partly outside the image; training cuts it off"),
        ({"bbox": [70, 5, float("inf"), 5]}, "bbox [70, 5, inf, 5] is not finite; training drops it"),
        ({"bbox": []}, "it has no bbox; training drops it: add x, y, width, height or delete it"),
    ],
)
def test_repaired_boxes_are_warnings(tmp_path, annotation, expected):
    checked = check(tmp_path, with_annotations({"bbox": [1, 2, 3, 4]}, annotation))
    assert not checked.errors
    finding = checked.findings[0]
    assert str(finding).startswith(f"warning: annotation 202 of image 11 (11.png): {expected}")
    assert (finding.image_id, finding.annotation_id) == (11, 202)
    kept = [201, *([202] if "cuts" in expected else [])]
    assert [annotation["id"] for annotation in checked.content["annotations"]] == kept
    assert list(checked.places) == kept


def test_a_set_without_boxes_is_an_error_where_it_is_trained_on(tmp_path):
    crowds = small_coco()
    for annotation in crowds["annotations"]:
        annotation["iscrowd"] = 1
    dropped = with_annotations({"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, 3, 4], "iscrowd": 1})
    for content, cause in (
        (crowds, "3 crowd regions (iscrowd 1), which no model learns: export single objects with iscrowd 0"),
        (small_coco() | {"annotations": []}, "there are no annotations; add some"),
        (dropped, "1 boxes of zero size dropped; 1 crowd regions (iscrowd 1)"),
    ):
        for is_learned, level in ((True, "error"), (False, "warning")):
            (finding,) = [f for f in check(tmp_path, content, is_learned=is_learned).findings if f.kind == "no boxes"]
            assert str(finding).startswith(f"{level}: there is no box to learn: {cause}")


def test_a_wrong_entry_takes_along_only_what_hangs_on_it(tmp_path):
    content = small_coco()
    content["images"][0]["width"] = "80"  # annotations 101 and 102 are its
    content["images"].append({"id": 11, "file_name": "again.png", "width": 1, "height": 1})
    content["categories"][2]["name"] = ""
    checked = check(tmp_path, content)
    assert [line for line in lines(checked) if line.startswith("error")] == [
        "error: image 11 (11.png): width '80' is not a whole number of pixels above 0; write the picture's own",
        "error: images[4]: id 11 is taken by an earlier entry; give each its own id",
        "error: category 9: name '' is no text; name the class",
    ]
    assert [annotation["id"] for annotation in checked.content["annotations"]] == [103]
    assert [category["id"] for category in checked.content["categories"]] == [2, 5]
    assert [image["id"] for image in checked.content["images"]] == [12, 13, 14]
    assert [image["file_name"] for image in checked.pictures] == ["11.png", "12.png", "13.png", "14.png"]


def test_classes_of_two_sets(tmp_path):
    train, other, reordered = small_coco(), small_coco(), small_coco()
    other["categories"][2]["name"] = "fish"
    reordered["categories"][0]["id"] = 7
    reordered["annotations"] = []
    found = [
        [str(finding) for finding in compare_classes(check(tmp_path, train), check(tmp_path, content))]
        for content in (train, other, reordered, [])
    ]
    advice = "; give both json files the same categories in the same order of ids"
    assert found == [
        [],
        [f"error: categories: only train has parrot; only val has fish{advice}"],
        [f"error: categories: their order differs: cat, dog, parrot against dog, cat, parrot{advice}"],
        [],  # that json has an error
    ]
