"""Whatever a json holds: it is read and loads, or is refused with a message."""

import json
import tempfile
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcos_rpn.data import register_coco_folder
from fcos_rpn.data.coco.annotations import load_annotations
from fcos_rpn.errors import UserError

texts = st.text(max_size=5) | st.sampled_from(["", "..", "\0", "\ud800", "a.png", "../a.png", "/a.png", "C:\\a.png"])
numbers = (
    st.integers(-2, 60)
    | st.floats(-2, 60)
    | st.sampled_from([True, 1 << 31, 1 << 62, 10**30, 10**400, 1e308, float("inf"), float("nan"), -0.0])
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def mostly(good):
    """Something else once in a while, so that not every example ends at the first key."""
    return st.integers(0, 24).flatmap(lambda n: anything if n == 0 else good)


ids = mostly(st.integers(0, 3))
encodings = st.fixed_dictionaries({"size": mostly(st.just([30, 40])), "counts": mostly(st.just([1200]) | texts)})
shapes = mostly(st.none() | st.lists(st.lists(numbers, max_size=8), max_size=2) | encodings)
images = st.fixed_dictionaries(
    {"id": ids, "file_name": mostly(st.just("a.png")), "width": mostly(st.just(40)), "height": mostly(st.just(30))}
)
categories = st.fixed_dictionaries(
    {"id": ids, "name": mostly(st.text(min_size=1, max_size=3))},
    optional={"keypoints": mostly(st.just(["left", "right"]))},
)
annotations = st.fixed_dictionaries(
    {"id": mostly(st.integers(0, 9)), "image_id": ids, "category_id": ids, "bbox": mostly(st.tuples(*[numbers] * 4))},
    optional={
        "area": mostly(numbers),
        "iscrowd": mostly(st.integers(0, 1)),
        "ignore": mostly(st.just(0)),
        "segmentation": shapes,
        "keypoints": mostly(st.lists(numbers, max_size=6)),
        "score": anything,
    },
)


def unique(entries):
    """By id, as nearly every real file has it."""
    return mostly(st.lists(entries, min_size=1, max_size=3, unique_by=lambda entry: repr(entry["id"])))


nearly_coco = mostly(
    st.fixed_dictionaries(
        {"images": unique(images), "categories": unique(categories), "annotations": unique(annotations)}
    )
)


@settings(max_examples=200)
@given(nearly_coco | anything)
def test_any_json_is_registered_and_loads_or_is_refused(content):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        Image.new("RGB", (40, 30)).save(folder / "images" / "a.png")
        (folder / "any.json").write_text(json.dumps(content))
        data_set, message = None, ""
        try:
            data_set = register_coco_folder(folder / "images", folder / "any.json", output_dir=folder / "output")
        except UserError as error:
            message = str(error)
        if data_set is None:
            assert str(folder / "any.json") in message
            return
        try:
            records = DatasetCatalog.get(data_set)
        finally:
            DatasetCatalog.remove(data_set)
            MetadataCatalog.remove(data_set)
        assert len(records) == len(content["images"])
        num_boxes = sum(len(record["annotations"]) for record in records)
        assert num_boxes <= len(content["annotations"])
        for record in records:
            for annotation in record["annotations"]:
                x, y, width, height = annotation["bbox"]
                assert min(x, y) >= -0.02
                assert min(width, height) > 0
                assert x + width <= 40.02
                assert y + height <= 30.02


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:0123456789eE+-. nulltruefasNI', max_size=60).map(str.encode))
def test_any_file_is_refused(content):
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "any.json")
        file.write_bytes(content)
        with pytest.raises(UserError) as error:
            load_annotations(file)
        assert str(file) in str(error.value)
