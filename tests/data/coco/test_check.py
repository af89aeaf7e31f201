import functools
import json
import operator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcos_rpn.data.coco.annotations import load_annotations
from fcos_rpn.data.coco.check import CheckedJson, check_json, compare_classes
from tests.data.coco.test_annotations import ANY_JSON, FINDINGS, paths_into
from tests.data.small_coco import coco_with_shapes, small_coco, write_coco


def check(tmp_path, content: object) -> CheckedJson:
    json_file = tmp_path / "pets.json"
    json_file.write_text(json.dumps(content))
    return check_json(json_file)


def lines(checked: CheckedJson) -> list[str]:
    return [str(finding) for finding in checked.findings]


def with_annotations(*annotations: dict) -> dict:
    """Of image 11, of 80 x 60 pixels; ids from 201 on."""
    defaults = {"image_id": 11, "category_id": 2, "iscrowd": 0, "area": 1.0}
    return small_coco() | {"annotations": [defaults | {"id": i} | a for i, a in enumerate(annotations, start=201)]}


UNUSED = [
    "warning: category 9 (parrot): no boxes; nothing can be learned of this class",
    "warning: {}: 3 of 4 images have no boxes, first image 12; they train as background",
]
"""Of `small_coco`, whose image 13 has a crowd only."""


def unused(tmp_path) -> list[str]:
    return [line.format(tmp_path / "pets.json") for line in UNUSED]


@pytest.mark.parametrize("content", [small_coco(), coco_with_shapes()])
def test_a_clean_json_has_warnings_only(tmp_path, content):
    checked = check(tmp_path, content)
    assert lines(checked) == unused(tmp_path)
    assert checked.content == {key: content[key] for key in ("categories", "images", "annotations")}
    assert checked.images == content["images"]
    assert checked.places == {
        101: "annotation 101 of image 11 (11.png)",
        102: "annotation 102 of image 11 (11.png)",
        103: "annotation 103 of image 13 (13.png)",
    }


@pytest.mark.parametrize(
    ("spoil", "loading_says"), [finding for finding in FINDINGS if "image files" not in finding[1]]
)
def test_what_stops_loading_is_an_error(tmp_path, spoil, loading_says):
    content = small_coco()
    spoil(content)
    errors = [finding for finding in check(tmp_path, content).findings if finding.level == "error"]
    text = loading_says.partition(": ")[2] or loading_says
    assert any(text in error.text for error in errors)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "not a readable json"),
        (b'{"images": [', "not a readable json"),
        (b"\xff\xfe{}", "not a readable json"),
        (b"[" * 100_000, "not a readable json"),
        (b"[]", "holds no object"),
        (b'{"images": []}', "the key 'categories' is missing"),
        (b'{"images": {}, "categories": [1], "annotations": []}', "'images' is no list"),
    ],
)
def test_unusable_json(tmp_path, text, expected):
    json_file = tmp_path / "pets.json"
    json_file.write_bytes(text)
    (line,) = lines(check_json(json_file))
    assert line.startswith(f"error: {json_file}: {expected}")


def test_no_json(tmp_path):
    (line,) = lines(check_json(tmp_path / "nowhere.json"))
    assert line.startswith(f"error: {tmp_path / 'nowhere.json'}: cannot be read (No such file")


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ({"bbox": [5, 5, 0, 10]}, "bbox [5, 5, 0, 10] has zero size; training drops it: correct or delete it"),
        ({"bbox": [5, 5, -1, 10]}, "bbox [5, 5, -1, 10] has a negative size; write x, y, width, height"),
        ({"bbox": [80, 5, 5, 5]}, "bbox [80, 5, 5, 5] is wholly outside the image; training drops it"),
        ({"bbox": [70, 5, 11, 5]}, "bbox [70, 5, 11, 5] is partly outside the image; training cuts it off"),
        ({"bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 6]]}, "no polygon of segmentation has three points"),
    ],
)
def test_boxes_that_cannot_be_meant(tmp_path, annotation, expected):
    checked = check(tmp_path, with_annotations({"bbox": [1, 2, 3, 4]}, annotation))
    (error,) = (finding for finding in checked.findings if finding.level == "error")
    assert str(error).startswith(f"error: annotation 202 of image 11 (11.png): {expected}")
    assert (error.image_id, error.annotation_id) == (11, 202)
    is_kept = "cuts" in error.text
    assert [annotation["id"] for annotation in checked.content["annotations"]] == [201, *([202] if is_kept else [])]
    assert list(checked.places) == [201, *([202] if is_kept else [])]


def test_repairs_that_nobody_minds_are_one_warning(tmp_path):
    boxes = [{"bbox": [1, 2, 3, 4], "area": None}, {"bbox": [1, 2, 3, 5], "area": None}]
    checked = check(tmp_path, with_annotations(*boxes))
    assert lines(checked)[0] == (
        f"warning: {tmp_path / 'pets.json'}: training repairs: missing areas filled in (width * height): 2, first "
        "annotation 201 of image 11 (11.png)"
    )
    assert [annotation["area"] for annotation in checked.content["annotations"]] == [12.0, 15.0]


def test_places_follow_ids_that_training_fills_in(tmp_path):
    boxes = [{"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, 3, 5], "id": None}, {"bbox": [1, 2, 3, 6]}]
    checked = check(tmp_path, with_annotations(*boxes))
    assert checked.places == {
        204: "annotations[1] of image 11 (11.png)",
        203: "annotation 203 of image 11 (11.png)",
    }


def test_duplicate_boxes(tmp_path):
    box = {"bbox": [1, 2, 3, 4]}
    others = [{"bbox": [1, 2, 3, 4.5]}, box | {"category_id": 5}, box | {"image_id": 12}]
    checked = check(tmp_path, with_annotations(box, *others, {"bbox": [1.0, 2, 3, 4]}, box))
    assert [line for line in lines(checked) if "same box" in line] == [
        f"error: annotation {annotation_id} of image 11 (11.png): the same box and category as annotation 201 of image "
        "11 (11.png); delete one of them"
        for annotation_id in (205, 206)
    ]


def test_a_wrong_entry_takes_along_only_what_hangs_on_it(tmp_path):
    content = small_coco()
    content["images"][0]["width"] = "80"  # annotations 101 and 102 are its
    content["images"].append({"id": 11, "file_name": "again.png", "width": 1, "height": 1})
    content["categories"][2]["name"] = ""
    checked = check(tmp_path, content)
    assert [line for line in lines(checked) if line.startswith("error")] == [
        f"error: {tmp_path / 'pets.json'}: images[4]: id 11 is taken by an earlier entry; give each its own id",
        "error: category 9: name '' is no text; name the class",
        "error: image 11 (11.png): width '80' is not a whole number of pixels above 0; write the picture's own",
    ]
    assert [annotation["id"] for annotation in checked.content["annotations"]] == [103]
    assert [category["id"] for category in checked.content["categories"]] == [2, 5]
    assert [image["id"] for image in checked.content["images"]] == [12, 13, 14]
    assert [image["file_name"] for image in checked.images] == ["11.png", "12.png", "13.png", "14.png"]


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
        [f"warning: categories: only train has parrot; only val has fish{advice}"],
        [f"warning: categories: their order differs: cat, dog, parrot against dog, cat, parrot{advice}"],
        [],  # that json has an error
    ]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(paths_into({"content": coco_with_shapes()})[1:]), ANY_JSON | st.just(...)),
        min_size=1,
        max_size=3,
    )
)
def test_any_mutation_gives_findings_and_the_rest_loads(tmp_path, changes):
    root = {"content": coco_with_shapes()}
    for path, value in changes:
        try:
            *parents, last = path
            node = functools.reduce(operator.getitem, parents, root)
            if value is ... and last in (node if isinstance(node, dict) else range(len(node))):
                del node[last]
            elif value is not ...:
                node[last] = value
        except (LookupError, TypeError):  # an earlier change has taken it away
            continue
    checked = check(tmp_path, root.get("content"))
    assert all(json.dumps(finding.to_json()) and "\n" not in str(finding) for finding in checked.findings)
    json_file = tmp_path / "rest.json"
    json_file.write_text(json.dumps(checked.content))
    if checked.content["images"] and checked.content["categories"]:
        assert load_annotations(json_file).repairs == {}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_give_findings(tmp_path, data):
    content = bytearray(json.dumps(coco_with_shapes()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    json_file = tmp_path / "pets.json"
    json_file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert all(str(finding) for finding in check_json(json_file).findings)


def test_write_coco_and_the_shapes_fit_together(tmp_path):
    images, json_file = write_coco(tmp_path, coco_with_shapes())
    assert load_annotations(json_file, images).repairs == {}
