import contextlib
import functools
import io
import json
import logging
import math
import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.data.detection_utils import transform_instance_annotations
from detectron2.data.transforms import TransformList
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fcos_rpn.data.coco.annotations import load_annotations
from fcos_rpn.errors import UserError
from tests.data.small_coco import coco_with_shapes, small_coco, write_coco

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_clean_json_is_left_as_it_is(tmp_path, caplog):
    images, json_file = write_coco(tmp_path, small_coco())
    checked = load_annotations(json_file, images)
    assert checked.content == small_coco()
    assert checked.repairs == {}
    assert not checked.is_changed
    assert not caplog.records


def test_images_without_any_annotation_pass(tmp_path):
    content = small_coco() | {"annotations": []}
    images, json_file = write_coco(tmp_path, content)
    assert load_annotations(json_file, images) == (content, {})


# Stops


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "line 1 column 1"),
        (b'{"images": [],\n "annotations": [', "line 2 column 18"),
        (b"\xff\xfe{}", "utf-8"),
        (b"[" * 100_000, "not a readable json"),
        (b"[]", "no object"),
        (b'{"images": [], "annotations": []}', "'categories' is missing"),
        (b'{"images": [], "categories": []}', "'annotations' is missing"),
        (b'{"categories": [], "annotations": []}', "'images' is missing"),
        (b'{"images": {}, "categories": [], "annotations": []}', "'images' is no list"),
        (b'{"images": [{}], "categories": [], "annotations": []}', "'categories' is empty"),
        (b'{"images": [], "categories": [{}], "annotations": []}', "'images' is empty"),
    ],
)
def test_unusable_json(tmp_path, text, expected):
    json_file = tmp_path / "pets.json"
    json_file.write_bytes(text)
    with pytest.raises(UserError) as error:
        load_annotations(json_file)
    assert str(json_file) in str(error.value)
    assert expected in str(error.value)


def test_no_json(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read \(No such file"):
        load_annotations(tmp_path / "nowhere.json")


def test_no_folder_of_images(tmp_path):
    _, json_file = write_coco(tmp_path, small_coco())
    with pytest.raises(UserError, match=r"nowhere: there is no such folder"):
        load_annotations(json_file, tmp_path / "nowhere")


def change(key: str, **values: object) -> Callable[[dict], None]:
    """Writes `values` into the second entry of a list: image 12, category 5, annotation 102."""
    return lambda content: content[key][1].update(values)


def remove(key: str, name: str) -> Callable[[dict], None]:
    return lambda content: content[key][1].pop(name)


def replace(key: str, entry: object) -> Callable[[dict], None]:
    return lambda content: content[key].__setitem__(1, entry)


FINDINGS = [
    # ids
    (replace("annotations", [1]), "annotations[1] is [1], not an object"),
    (replace("images", None), "images[1] is None, not an object"),
    (change("annotations", id="102"), "annotations[1]: id '102' is not a whole number"),
    (change("annotations", id=101), "annotations[1]: id 101 is taken"),
    (remove("images", "id"), "images[1]: id None is not a whole number"),
    (change("images", id=11), "images[1]: id 11 is taken"),
    (change("categories", id=True), "categories[1]: id True is not a whole number"),
    (change("categories", id=2), "categories[1]: id 2 is taken"),
    # categories
    (change("categories", name=3), "category 5: name 3 is no text"),
    (remove("categories", "name"), "category 5: name None is no text"),
    (change("categories", keypoints=["nose", 1]), "category 5: keypoints ['nose', 1] is no list of names"),
    # images
    (remove("images", "file_name"), "image 12: file_name None is no text"),
    (change("images", file_name="../photos/12.png"), "image 12: file_name '../photos/12.png' leaves the folder"),
    (change("images", file_name="a/../../12.png"), "image 12: file_name 'a/../../12.png' leaves the folder"),
    (change("images", file_name="/photos/12.png"), "image 12: file_name '/photos/12.png' leaves the folder"),
    (change("images", file_name="."), "1 of 4 image files are not in"),
    (remove("images", "width"), "image 12: width None is not a whole number of pixels above 0"),
    (change("images", height=0), "image 12: height 0 is not a whole number of pixels above 0"),
    (change("images", height=60.5), "image 12: height 60.5 is not a whole number of pixels above 0"),
    (change("images", width=10**30), "image 12: width 1000000000"),
    # annotations
    (change("annotations", image_id=99), "annotation 102 (image 99): image_id 99 is not the id of an image"),
    (change("annotations", image_id=[]), "annotation 102 (image []): image_id [] is not the id of an image"),
    (remove("annotations", "image_id"), "annotation 102 (image None): image_id None is not the id of an image"),
    (change("annotations", category_id=3), "annotation 102 (image 11): category_id 3 is not the id of a category"),
    (remove("annotations", "category_id"), "annotation 102 (image 11): category_id None"),
    (change("annotations", id=None, category_id=3), "annotations[1] (image 11): category_id 3"),
    (remove("annotations", "bbox"), "annotation 102 (image 11): bbox None is not x, y, width, height"),
    (change("annotations", bbox=[]), "annotation 102 (image 11): bbox [] is not x, y, width, height"),
    (change("annotations", bbox=[1, 2, 3]), "annotation 102 (image 11): bbox [1, 2, 3] is not"),
    (change("annotations", bbox=[1, 2, 3, "4"]), "annotation 102 (image 11): bbox [1, 2, 3, '4'] is not"),
    (change("annotations", bbox=[1, 2, math.nan, 4]), "annotation 102 (image 11): bbox [1, 2, nan, 4] is not"),
    (change("annotations", bbox=[1, -math.inf, 3, 4]), "annotation 102 (image 11): bbox [1, -inf, 3, 4] is not"),
    (change("annotations", bbox=[1e308, 2, 1e308, 4]), "annotation 102 (image 11): bbox [1e+308, 2, 1e+308, 4] is not"),
    (change("annotations", bbox=[10**400, 2, 3, 4]), "annotation 102 (image 11): bbox [1000"),
    (change("annotations", bbox=[1, 2, 3, -4]), "annotation 102 (image 11): bbox [1, 2, 3, -4] has a negative size"),
    (change("annotations", bbox=[40, 2, -3.5, 4]), "annotation 102 (image 11): bbox [40, 2, -3.5, 4] has a negative"),
    (change("annotations", area=math.nan), "annotation 102 (image 11): area nan is not"),
    (change("annotations", area=-1), "annotation 102 (image 11): area -1 is not"),
    (change("annotations", iscrowd=2), "annotation 102 (image 11): iscrowd 2 is neither 0 nor 1"),
    (change("annotations", ignore=1), "annotation 102 (image 11): Detectron2 does not know the key ignore"),
    (change("annotations", id=1 << 62), "annotations[1]: id 4611686018427387904 is too large"),
    # shapes; test_outlines has all of their problems
    (change("annotations", segmentation=7), "annotation 102 (image 11): segmentation 7 is neither a list of polygons"),
    (change("annotations", segmentation=[[1, 2, 3]]), "annotation 102 (image 11): segmentation[0] [1, 2, 3] is not x"),
    (change("annotations", segmentation={}), "annotation 102 (image 11): segmentation: size None is not height and"),
    (
        change("annotations", segmentation={"size": [80, 60], "counts": [4800]}),
        "annotation 102 (image 11): segmentation: size [80, 60] is not the height and width of the image, [60, 80]",
    ),
    (
        change("annotations", segmentation={"size": [60, 80], "counts": [4801]}),
        "annotation 102 (image 11): segmentation: counts [4801] are no run lengths that add up to 60 * 80 pixels",
    ),
    (change("annotations", keypoints=[1, 2]), "annotation 102 (image 11): keypoints [1, 2] is not x, y and visibility"),
]


@pytest.mark.parametrize(("spoil", "expected"), FINDINGS, ids=[expected for _, expected in FINDINGS])
def test_a_finding_is_named(tmp_path, spoil, expected):
    content = small_coco()
    spoil(content)
    images, json_file = write_coco(tmp_path, content)
    with pytest.raises(UserError) as error:
        load_annotations(json_file, images)
    first, *findings = str(error.value).splitlines()
    assert first == f"{json_file}:"
    assert len(findings) == 1
    assert findings[0].strip().startswith(expected)
    assert "; " in findings[0]  # what to do comes after it


def test_findings_are_shown_together_up_to_ten(tmp_path):
    content = small_coco()
    content["images"][0]["width"] = 0
    content["annotations"] = [
        {"id": i, "image_id": 11, "category_id": 77, "bbox": [0, 0, 1, 1]} for i in range(201, 213)
    ]
    images, json_file = write_coco(tmp_path, content)
    with pytest.raises(UserError) as error:
        load_annotations(json_file, images)
    # 1 + 12 findings: the image and annotations 201 to 209 are shown.
    _, *findings = str(error.value).splitlines()
    assert len(findings) == 11
    assert "image 11: width 0" in findings[0]
    assert "annotation 209 " in findings[9]
    assert findings[10].strip() == "and 3 more"


def test_missing_files_are_counted(tmp_path):
    images, json_file = write_coco(tmp_path, small_coco())
    (images / "12.png").unlink()
    (images / "14.png").unlink()
    with pytest.raises(
        UserError, match=r"2 of 4 image files are not in .*: '12.png' \(image 12\), '14.png' \(image 14\);"
    ):
        load_annotations(json_file, images)
    assert load_annotations(json_file).repairs == {}


# Repairs


def repaired(tmp_path: Path, *annotations: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Annotations and repairs of a json whose annotations belong to image 11, of 80 x 60 pixels."""
    defaults = {"image_id": 11, "category_id": 2, "iscrowd": 0, "area": 1.0}
    content = small_coco() | {
        "annotations": [defaults | {"id": i} | annotation for i, annotation in enumerate(annotations, start=201)]
    }
    images, json_file = write_coco(tmp_path, content)
    checked = load_annotations(json_file, images)
    assert checked.is_changed == bool(checked.repairs)
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


def test_missing_entries_are_filled_in(tmp_path):
    annotations, repairs = repaired(
        tmp_path,
        {"bbox": [1, 2, 3, 4.5], "area": None},
        {"bbox": [70, 2, 20, 4], "area": None},  # clipped to 10 x 4 first
        {"bbox": [1, 2, 3, 4], "iscrowd": None},
        {"bbox": [1, 2, 3, 4], "id": None},
        {"bbox": [1, 2, 3, 4], "id": None},
        {"bbox": [1, 2, 0, 4], "id": None, "area": None, "iscrowd": None},  # dropped, so nothing is filled in
        {"bbox": [1, 2, 3, 4], "id": 300},
    )
    assert [annotation["area"] for annotation in annotations] == [13.5, 40, 1, 1, 1, 1]
    assert [annotation["iscrowd"] for annotation in annotations] == [0] * 6
    assert [annotation["id"] for annotation in annotations] == [201, 202, 203, 301, 302, 300]
    assert repairs == {
        "boxes of zero size dropped": 1,
        "boxes partly outside their image clipped": 1,
        "missing areas filled in (width * height)": 2,
        "missing iscrowd filled in (0)": 1,
        "missing annotation ids filled in": 2,
    }


def test_annotations_that_detectron2_would_leave_out_are_counted(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    point, triangle = [1, 2, 3, 4], [1, 1, 9, 1, 9, 9]
    box = {"bbox": [1, 2, 3, 4]}
    annotations, repairs = repaired(
        tmp_path,
        box | {"segmentation": [point]},
        box | {"segmentation": [point, triangle]},
        box | {"segmentation": []},
        {"bbox": [1, 2, 0, 4], "segmentation": [point]},  # is dropped once
        box | {"segmentation": [point], "id": None},  # so no id is filled in
    )
    assert [annotation["id"] for annotation in annotations] == [202, 203]
    kind = "annotations dropped whose polygons all have less than three points"
    assert repairs == {"boxes of zero size dropped": 1, kind: 2}
    assert f"{kind}: 2, first annotation 201 (image 11), annotations[4] (image 11)" in caplog.text


def test_shapes_load_in_detectron2(tmp_path):
    images, json_file = write_coco(tmp_path, coco_with_shapes())
    assert load_annotations(json_file, images).repairs == {}
    dog, cat = load_coco_json(str(json_file), str(images))[0]["annotations"]
    assert (dog["segmentation"], dog["keypoints"][:3]) == ([[10, 20, 40, 20, 40.0, 60]], [12.5, 22.5, 2])
    assert mask_util.decode(cat["segmentation"]).sum() == 78 * 60


def test_repairs_are_logged_by_kind_with_examples(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    flat = {"bbox": [1, 2, 3, 0]}
    repaired(tmp_path, flat, flat, flat, flat | {"id": None}, {"bbox": [75, 2, 10, 5]})
    json_file = tmp_path / "pets.json"
    assert [record.getMessage() for record in caplog.records] == [
        f"{json_file}: boxes of zero size dropped: 4, first annotation 201 (image 11), annotation 202 (image 11), "
        "annotation 203 (image 11), ...",
        f"{json_file}: boxes partly outside their image clipped: 1, first annotation 205 (image 11)",
    ]


def evaluate_perfect_detections(content: dict[str, Any]) -> float:
    """pycocotools' AP."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = content
        ground_truth.createIndex()
        keys = ("image_id", "category_id", "bbox")
        detections = [{key: a[key] for key in keys} | {"score": 0.9} for a in content["annotations"]]
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_id_0_counts_as_found(tmp_path):
    # pycocotools writes the id of the matched ground truth, and reads 0 as "none": without the repair AP is 0.
    annotations, repairs = repaired(tmp_path, {"bbox": [1, 2, 30, 40], "id": 0})
    assert repairs == {"annotation id 0 replaced (pycocotools takes it for 'not matched')": 1}
    assert evaluate_perfect_detections(small_coco() | {"annotations": annotations}) == pytest.approx(1.0)


def test_repaired_json_is_clean_and_loads_in_pycocotools(tmp_path):
    content = small_coco()
    content["annotations"] = [
        {"image_id": 11, "category_id": 2, "bbox": [-3.3, 50.1, 20.7, 30]},
        {"image_id": 13, "category_id": 5, "bbox": [5, 5, 0, 0]},
        {"image_id": 13, "category_id": 5, "bbox": [5, 5, 7, 9]},
    ]
    images, json_file = write_coco(tmp_path, content)
    json_file.write_text(json.dumps(load_annotations(json_file, images).content))

    assert load_annotations(json_file, images).repairs == {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(json_file))
    assert sorted(coco.anns) == [1, 2]
    assert coco.anns[2]["bbox"] == [5, 5, 7, 9]
    assert coco.getAnnIds(imgIds=[13], areaRng=[62, 64]) == [2]


# Any content


def paths_into(node: object) -> list[list[str | int]]:
    entries: Iterable[tuple[str | int, object]] = ()
    if isinstance(node, dict):
        entries = node.items()
    elif isinstance(node, list):
        entries = enumerate(node)
    return [[], *([key, *path] for key, child in entries for path in paths_into(child))]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=3), children, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(paths_into({"content": coco_with_shapes()})[1:]), value=ANY_JSON)
def test_any_value_anywhere_is_a_user_error_or_loads(tmp_path, path, value):
    root = {"content": coco_with_shapes()}
    functools.reduce(operator.getitem, path[:-1], root)[path[-1]] = value
    json_file = tmp_path / "any.json"
    json_file.write_text(json.dumps(root["content"]))
    try:
        checked = load_annotations(json_file)
    except UserError:
        return
    json_file.write_text(json.dumps(checked.content))
    assert load_annotations(json_file).repairs == {}
    for image in load_coco_json(str(json_file), str(tmp_path)):
        for annotation in image["annotations"]:
            transform_instance_annotations(annotation, TransformList([]), (image["height"], image["width"]))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs COCO's annotations")
@pytest.mark.parametrize(
    "json_file", ["coco_val2017/instances_val2017_rebuilt.json", "golden/instances_val2014_100.json"]
)
def test_coco_passes_without_repairs(json_file):
    assert load_annotations(SHARED / json_file).repairs == {}
