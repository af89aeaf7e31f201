import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcos_rpn.data.coco.annotations import CheckedAnnotations, load_annotations
from fcos_rpn.data.coco.check import check_json
from fcos_rpn.errors import UserError
from tests.data.small_coco import coco_with_shapes, small_coco, write_coco

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("content", [small_coco(), coco_with_shapes(), small_coco() | {"annotations": []}])
def test_a_clean_json_is_left_as_it_is(tmp_path, caplog, content):
    images, json_file = write_coco(tmp_path, content)
    checked = load_annotations(json_file, images)
    assert (checked.content, checked.repairs, checked.is_changed) == (content, {}, False)
    assert checked.pictures == content["images"]
    assert not caplog.records


def test_a_test_set_needs_no_annotations(tmp_path):
    content = small_coco()
    del content["annotations"]
    checked = load_annotations(*write_coco(tmp_path, content)[::-1])
    assert (checked.content, checked.is_changed) == (content, False)


# Stops


def change(key: str, **values: object) -> Callable[[dict], None]:
    """Writes `values` into the second entry of a list: image 12, category 5, annotation 102."""
    return lambda content: content[key][1].update(values)


def remove(key: str, name: str) -> Callable[[dict], None]:
    return lambda content: content[key][1].pop(name)


def rename(key: str, name: str, wrong_name: str) -> Callable[[dict], None]:
    return lambda content: content[key][1].update({wrong_name: content[key][1].pop(name)})


def each(key: str, **values: object) -> Callable[[dict], object]:
    """Writes `values` into all entries of a list."""
    return lambda content: [entry.update(values) for entry in content[key]]


def replace(key: str, entry: object) -> Callable[[dict], None]:
    return lambda content: content[key].__setitem__(1, entry)


ERRORS = [
    # ids
    (replace("annotations", [1]), "annotations[1]: is [1], not an object"),
    (replace("images", None), "images[1]: is None, not an object"),
    (remove("images", "id"), "images[1]: id None is neither a whole number nor text"),
    (change("images", id=1.5), "images[1]: id 1.5 is neither a whole number nor text"),
    (change("images", id=True), "images[1]: id True is neither"),
    (change("images", id=11), "images[1]: id 11 is taken"),
    (change("categories", id=True), "categories[1]: id True is not a whole number"),
    (change("categories", id="5"), "categories[1]: id '5' is not a whole number"),
    (change("categories", id=2), "categories[1]: id 2 is taken"),
    # categories
    (change("categories", name=3), "category 5: name 3 is no text"),
    (change("categories", name="\ud800"), "category 5: name '\\ud800' is no text"),
    (change("categories", name="cat"), "categories 2, 5: they have one name, 'cat', and figures by class would melt"),
    (change("categories", keypoints=["nose", 1]), "category 5: keypoints ['nose', 1] is no list of names"),
    # images
    (remove("images", "file_name"), "image 12: file_name None is no text"),
    (change("images", file_name="12.png\0.jpg"), "image 12 (12.png\\x00.jpg): file_name '12.png\\x00.jpg' is no text"),
    (change("images", file_name="a" * 5000), "image 12 (aaa"),
    (change("images", file_name="../12.jpg"), "1 of 4 image files are not in"),  # nearly the name of a file
    (change("images", file_name="a/../../x.png"), "1 of 4 file names leave the folder"),
    (change("images", file_name="/etc/passwd"), "1 of 4 file names leave the folder"),
    (change("images", file_name="."), "1 of 4 image files in"),
    (change("images", file_name="~/x.png"), "1 of 4 image files are not in"),
    (remove("images", "width"), "image 12 (12.png): width None is not a whole number of pixels above 0"),
    (change("images", height=0), "image 12 (12.png): height 0 is not a whole number"),
    (change("images", height=60.5), "image 12 (12.png): height 60.5 is not a whole number"),
    (change("images", height=True), "image 12 (12.png): height True is not a whole number"),
    (change("images", width=10**30), "image 12 (12.png): width 1000000000"),
    # annotations
    (change("annotations", image_id=99), "annotation 102 of image 99: image_id 99 is not the id of an image"),
    (change("annotations", image_id=[]), "annotation 102 of image []: image_id [] is not the id of an image"),
    (remove("annotations", "image_id"), "annotation 102: image_id None is not the id of an image"),
    (change("annotations", category_id=3), "annotation 102 of image 11 (11.png): category_id 3 is not the id of a"),
    (change("annotations", id=None, category_id=[2]), "annotations[1] of image 11 (11.png): category_id [2] is not"),
    (change("annotations", bbox=[1, 2, 3]), "annotation 102 of image 11 (11.png): bbox [1, 2, 3] is not x, y, width"),
    (change("annotations", bbox=[1, 2, 3, True]), "annotation 102 of image 11 (11.png): bbox [1, 2, 3, True] is not"),
    (change("annotations", bbox={"x": 1}), "annotation 102 of image 11 (11.png): bbox {'x': 1} is not"),
    (change("annotations", bbox=["1"] * 4), "annotation 102 of image 11 (11.png): bbox ['1', '1', '1', '1'] is not"),
    (
        change("annotations", bbox=[1, 2, 3, -4]),
        "annotation 102 of image 11 (11.png): bbox [1, 2, 3, -4] has a negative",
    ),
    (change("annotations", iscrowd=2), "annotation 102 of image 11 (11.png): iscrowd 2 is neither 0 nor 1"),
    (change("annotations", ignore="no"), "annotation 102 of image 11 (11.png): ignore 'no' is neither 0 nor 1"),
    # wrong keys
    (rename("images", "file_name", "fileName"), "image 12: the key is 'fileName'; rename it 'file_name'"),
    (rename("images", "file_name", "coco_url"), "image 12: the key is 'coco_url'; rename it 'file_name'"),
    (rename("images", "width", "Width"), "image 12 (12.png): the key is 'Width'; rename it 'width'"),
    (rename("annotations", "image_id", "imageId"), "annotation 102: the key is 'imageId'; rename it 'image_id'"),
    (rename("annotations", "category_id", "class"), "annotation 102 of image 11 (11.png): the key is 'class'"),
    (rename("annotations", "bbox", "boundingBox"), "annotation 102 of image 11 (11.png): the key is 'boundingBox'"),
    (rename("categories", "name", "Name"), "category 5: the key is 'Name'; rename it 'name'"),
    # one cause, one line
    (each("annotations", image_id="11"), "3 annotations: image_id is text, and the ids of images are numbers; write"),
    (each("annotations", category_id="2"), "3 annotations: category_id is text, and the ids of categories are"),
    (each("annotations", category_id=0), "3 annotations: category_id 0 is not the id of a category"),
    (each("images", width=None), "4 images: width None is not a whole number"),
    (each("annotations", bbox=[0.1, 0.2, 0.5, 0.5]), "all 3 boxes lie within one pixel: are they normalised to 0..1?"),
    (
        lambda content: content["categories"].extend(content["categories"][:1] * 49),
        "category 2: the same category is listed 50 times; delete the repeats",
    ),
    (
        lambda content: content["categories"].extend({"id": i, "name": "cat"} for i in range(20, 22)),
        "categories 2, 20, 21: they have one name, 'cat', and figures by class would melt together; delete those that",
    ),
    (
        lambda content: [image.update(id=f"0{image['id']}") for image in content["images"]],
        "3 annotations: image_id is a number, and the ids of images are text; write both",
    ),
]


@pytest.mark.parametrize(("spoil", "expected"), ERRORS, ids=[expected for _, expected in ERRORS])
def test_an_error_is_named_in_training_and_check(tmp_path, spoil, expected):
    content = small_coco()
    spoil(content)
    images, json_file = write_coco(tmp_path, content)
    with pytest.raises(UserError) as error:
        load_annotations(json_file, images)
    first, line, *more = str(error.value).splitlines()
    assert first == f"{json_file}:"
    assert line.strip().startswith(expected)
    assert not more or expected.startswith("categories[1]")  # whose annotations have none then
    assert str(error.value).encode()
    assert {*tmp_path.iterdir()} == {images, json_file}
    assert [error.line for error in check_json(json_file, images).errors] == [shown.strip() for shown in (line, *more)]


def test_errors_are_shown_together_up_to_ten(tmp_path):
    content = small_coco()
    content["images"][0]["width"] = 0
    content["annotations"] = [
        {"id": i, "image_id": 11, "category_id": 5, "bbox": [0, 0, -1, 1]} for i in range(201, 213)
    ]
    images, json_file = write_coco(tmp_path, content)
    with pytest.raises(UserError) as error:
        load_annotations(json_file, images)
    # 1 + 12 errors: the image and annotations 201 to 209 are shown.
    _, *lines = str(error.value).splitlines()
    assert len(lines) == 11
    assert "image 11 (11.png): width 0" in lines[0]
    assert "annotation 209 " in lines[9]
    assert lines[10].strip() == "and 3 more"


# Ids


@pytest.mark.parametrize(
    "names",
    [
        ["001", "002", "x", "4"],
        [-1, -2, -3, -4],
        [2**53, 2**53 + 1, 2**63, 10**40],
        ["1", 1, 2, 3],
    ],
)
def test_ids_of_images_are_names(tmp_path, names):
    """Three annotations belong to the first, the first and the third image."""
    content = small_coco()
    for image, name in zip(content["images"], names, strict=True):
        image["id"] = name
    for annotation, index in zip(content["annotations"], (0, 0, 2), strict=True):
        annotation["image_id"] = names[index]
    images, json_file = write_coco(tmp_path, content)
    checked = load_annotations(json_file, images)
    assert checked.is_changed
    assert checked.repairs == {}
    assert [image["id"] for image in checked.content["images"]] == [1, 2, 3, 4]
    assert [image["original_id"] for image in checked.content["images"]] == names
    assert [annotation["image_id"] for annotation in checked.content["annotations"]] == [1, 1, 3]
    assert checked.places[103] == f"annotation 103 of image {names[2]} (13.png)"


def test_whole_floats_are_whole_numbers(tmp_path):
    content = small_coco()
    for key, numbers in {
        "images": ("id", "width", "height"),
        "categories": ("id",),
        "annotations": ("id", "image_id", "category_id", "iscrowd"),
    }.items():
        for entry in content[key]:
            entry.update({name: float(entry[name]) for name in numbers})
    images, json_file = write_coco(tmp_path, content)
    checked = load_annotations(json_file, images)
    assert checked.is_changed
    assert json.dumps(checked.content, sort_keys=True) == json.dumps(small_coco(), sort_keys=True)


# Repairs


def loaded(tmp_path: Path, *annotations: dict[str, Any], **learned: Any) -> CheckedAnnotations:
    """A json whose annotations belong to image 11, of 80 x 60 pixels."""
    defaults = {"image_id": 11, "category_id": 2, "iscrowd": 0, "area": 1.0}
    content = coco_with_shapes() | {
        "annotations": [defaults | {"id": i} | annotation for i, annotation in enumerate(annotations, start=201)]
    }
    images, json_file = write_coco(tmp_path, content)
    checked = load_annotations(json_file, images, **learned)
    assert checked.is_changed == bool(checked.repairs)
    return checked


def repaired(tmp_path: Path, *annotations: dict[str, Any], **learned: bool) -> tuple[list[dict], dict[str, int]]:
    """Annotations and repairs of `loaded`."""
    checked = loaded(tmp_path, *annotations, **learned)
    return checked.content["annotations"], checked.repairs


@pytest.mark.parametrize(
    ("bbox", "expected", "repair"),
    [
        ([5, 5, 0, 10], None, "boxes of zero size dropped"),
        ([5, 5, 10, 0.0], None, "boxes of zero size dropped"),
        ([90, 5, 0, 0], None, "boxes of zero size dropped"),
        ([80, 5, 10, 10], None, "boxes wholly outside their image dropped"),
        ([5, 61, 10, 10], None, "boxes wholly outside their image dropped"),
        ([-10, 5, 10, 10], None, "boxes wholly outside their image dropped"),
        ([5, -1e11, 10, 9e10], None, "boxes wholly outside their image dropped"),
        ([1, 2, math.nan, 4], None, "boxes that are not finite dropped"),
        ([1, -math.inf, 3, 4], None, "boxes that are not finite dropped"),
        ([0, 0, 1e308, 4], None, "boxes that are not finite dropped"),
        ([10**400, 2, 3, 4], None, "boxes that are not finite dropped"),
        ([], None, "annotations without a bbox dropped"),
        (None, None, "annotations without a bbox dropped"),
        # (0.1 + 0.2) - 0.1 is not 0.2, but nothing is cut off in y.
        ([70, 0.1, 20, 0.2], [70, 0.1, 10, 0.2], "boxes partly outside their image clipped"),
        ([-5, 50, 20, 20], [0, 50, 15, 10], "boxes partly outside their image clipped"),
        ([-5, -6, 1000, 1000], [0, 0, 80, 60], "boxes partly outside their image clipped"),
        ([5, -0.5, 10, 10], [5, 0, 10, 9.5], "boxes partly outside their image clipped"),
        ([60, 5, 20.01, 10], [60, 5, 20.01, 10], None),  # rounded to .01, as COCO's
        ([-0.01, 5, 10, 55.01], [-0.01, 5, 10, 55.01], None),
        ([0, 0, 0.5, 60], [0, 0, 0.5, 60], None),
    ],
)
@pytest.mark.parametrize("is_crowd", [0, 1])
def test_boxes_at_and_over_the_edge(tmp_path, bbox, expected, repair, is_crowd):
    annotations, repairs = repaired(tmp_path, {"bbox": bbox, "area": 7.5, "iscrowd": is_crowd}, {"bbox": [1, 1, 2, 2]})
    assert [annotation["bbox"] for annotation in annotations] == [box for box in (expected, [1, 1, 2, 2]) if box]
    assert repairs == ({repair: 1} if repair else {})
    if expected:
        assert (annotations[0]["area"], annotations[0]["iscrowd"]) == (7.5, is_crowd)


def test_missing_and_wrong_entries_are_filled_in(tmp_path, caplog):
    given = [
        {"bbox": [1, 2, 3, 4.5], "area": None},
        {"bbox": [70, 2, 20, 4], "area": None},  # clipped to 10 x 4 first
        *({"bbox": [1, 2, 3, side], "area": area} for side, area in ((2, math.nan), (3, -1), (5, "12"), (6, 10**400))),
        {"bbox": [1, 2, 0, 4], "id": None, "area": None, "iscrowd": None},  # dropped, so nothing is filled in
        {"bbox": [2, 2, 3, 4], "iscrowd": None},
        {"bbox": [3, 2, 3, 4], "ignore": 1},
        *({"bbox": [4, i, 3, 4], "id": id_} for i, id_ in enumerate([300, 300, None, None, 0, -3, "a", 2**53])),
    ]
    checked = loaded(tmp_path, *given)
    annotations = checked.content["annotations"]
    assert [annotation["area"] for annotation in annotations] == [13.5, 40, 6, 9, 15, 18] + [1] * 10
    assert [annotation["iscrowd"] for annotation in annotations] == [0] * 7 + [1] + [0] * 8
    assert annotations[7]["ignore"] == 0  # Detectron2 refuses any other
    # 300 is the largest, so that new ones are from 301 on.
    ids = [201, 202, 203, 204, 205, 206, 208, 209, 300, 301, 302, 303, 304, 305, 306, 307]
    assert [annotation["id"] for annotation in annotations] == [*checked.places] == ids
    assert checked.places[302] == "annotations[11] of image 11 (11.png)"
    texts = {
        "boxes of zero size dropped": 1,
        "boxes partly outside their image clipped": 1,
        "missing or wrong areas filled in (width * height)": 6,
        "missing iscrowd filled in (0)": 1,
        "annotations with ignore 1 taken as crowd regions (iscrowd 1)": 1,
        "annotation ids replaced that an earlier annotation has": 1,
        "missing annotation ids filled in": 2,
        "annotation ids replaced that are no whole numbers from 1 to 2^53": 4,
    }
    assert checked.repairs == texts
    # Each kind is logged once, with three examples.
    first = ", ".join(f"annotation {id_} of image 11 (11.png)" for id_ in (201, 202, 203))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(texts)
    assert (
        f"{tmp_path / 'pets.json'}: missing or wrong areas filled in (width * height): 6, first {first}, ..."
        in messages
    )
    assert (
        f"{tmp_path / 'pets.json'}: boxes of zero size dropped: 1, first annotations[6] of image 11 (11.png)"
        in messages
    )


POINT, TRIANGLE = [1, 2, 3, 4], [1, 1, 9, 1, 9, 9]
BROKEN_OUTLINES = [[POINT], [[]], 7, [[1, 2, 3]], {}, {"size": [80, 60], "counts": [4800]}]
NO_OUTLINES = "annotations without a usable outline (segmentation) dropped, since the model learns masks"


def test_broken_outlines_matter_to_models_with_masks_only(tmp_path):
    box = {"bbox": [1, 2, 3, 4]}
    outlines = [*BROKEN_OUTLINES, None, [], [POINT, TRIANGLE], [TRIANGLE], TRIANGLE]
    given = [box | {"segmentation": outline} for outline in outlines]
    flat = "flat polygons put into a list, since segmentation is a list of lists of x and y"

    annotations, repairs = repaired(tmp_path / "boxes", *given)
    kept = [annotation.get("segmentation", "deleted") for annotation in annotations]
    assert kept == ["deleted"] * 6 + [None, [], [POINT, TRIANGLE], [TRIANGLE], [TRIANGLE]]
    assert repairs == {flat: 1, "broken outlines (segmentation) ignored, since the model learns no masks": 6}

    annotations, repairs = repaired(tmp_path / "masks", *given, with_masks=True)
    assert [annotation["segmentation"] for annotation in annotations] == [[POINT, TRIANGLE], [TRIANGLE], [TRIANGLE]]
    assert repairs == {flat: 1, NO_OUTLINES: 8}


@pytest.mark.parametrize(
    "outline", [[[80, 0, 90, 0, 90, 9]], [[1, 1, 5, 5, 9, 9]], {"size": [60, 80], "counts": [4800]}]
)
def test_outlines_without_a_pixel_matter_to_models_with_masks_only(tmp_path, outline):
    given = [{"bbox": [1, 2, 3, 4], "segmentation": segmentation} for segmentation in (outline, [TRIANGLE])]
    annotations, repairs = repaired(tmp_path / "boxes", *given)
    assert ([annotation["segmentation"] for annotation in annotations], repairs) == ([outline, [TRIANGLE]], {})
    annotations, repairs = repaired(tmp_path / "masks", *given, with_masks=True)
    assert ([annotation["segmentation"] for annotation in annotations], repairs) == ([[TRIANGLE]], {NO_OUTLINES: 1})


def test_run_length_encodings_are_no_polygons_to_learn(tmp_path):
    """The cat, annotation 102, and the crowd have them; crowds are not learned."""
    content = coco_with_shapes()
    images, json_file = write_coco(tmp_path, content)
    with pytest.raises(
        UserError, match=r"\s1 outlines are run-length .* first annotation 102 .*INPUT\.MASK_FORMAT bit"
    ):
        load_annotations(json_file, images, with_masks=True)
    (error,) = check_json(json_file, images, with_masks=True).errors
    assert error.kind == "run-length encodings"
    for settings in ({"with_masks": True, "mask_format": "bitmask"}, {"with_masks": False}):
        assert load_annotations(json_file, images, **settings).content == content
        assert not check_json(json_file, images, **settings).errors
    assert not check_json(json_file, images, with_masks=True, is_learned=False).errors
    content["annotations"][1]["iscrowd"] = 1
    json_file.write_text(json.dumps(content))
    assert load_annotations(json_file, images, with_masks=True).content == content


def test_broken_keypoints_matter_to_models_with_keypoints_only(tmp_path):
    """The dog, category 5, has a nose and a tail."""
    box = {"bbox": [1, 2, 3, 4], "category_id": 5}
    right = [1, 2, 2, 3, 4, 1]
    given = [box | {"keypoints": keypoints} for keypoints in ([1, 2, 3, 3, 4, 1], [1, 2], right, [], None)]

    annotations, repairs = repaired(tmp_path / "boxes", *given)
    assert [annotation.get("keypoints", "deleted") for annotation in annotations] == ["deleted"] * 2 + [right, [], None]
    assert repairs == {"broken keypoints ignored, since the model learns none": 2}

    annotations, repairs = repaired(tmp_path / "keypoints", *given, with_keypoints=True)
    assert [annotation["keypoints"] for annotation in annotations] == [right, [0] * 6, [0] * 6]
    assert repairs == {
        "annotations without usable keypoints dropped, since the model learns keypoints": 2,
        "missing keypoints filled in (not labeled)": 2,
    }


def test_what_is_odd_is_said_and_trained(tmp_path):
    box = {"bbox": [1, 2, 3, 4]}
    checked = loaded(tmp_path / "double", box, box | {"bbox": [1, 2, 3, 4.5]}, box | {"category_id": 5}, box)
    (finding,) = checked.findings
    assert str(finding) == (
        "warning: annotation 204 of image 11 (11.png): the same box and category as annotation 201 of image 11 "
        "(11.png); delete one of them"
    )
    assert (finding.image_id, finding.annotation_id, len(checked.content["annotations"])) == (11, 204, 4)
    # As x, y, width and height, both leave the image of 80 x 60 pixels.
    corners = loaded(tmp_path / "corners", {"bbox": [50, 20, 70, 40]}, {"bbox": [40, 30, 80, 60]}).findings
    assert corners[0].text.startswith(
        "2 of 2 boxes leave their images, and all would fit as x0, y0, x1, y1: write x, y, "
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs COCO's annotations")
@pytest.mark.parametrize(
    "json_file", ["coco_val2017/instances_val2017_rebuilt.json", "golden/instances_val2014_100.json"]
)
def test_coco_passes_without_repairs(json_file):
    assert load_annotations(SHARED / json_file).repairs == {}
