"""Whatever a json holds: check and training agree, and what the repairs leave loads in Detectron2."""

import functools
import json
import operator
from collections.abc import Iterable

import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.data.detection_utils import transform_instance_annotations
from detectron2.data.transforms import TransformList
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcos_rpn.data.coco.annotations import load_annotations
from fcos_rpn.data.coco.check import check_json
from fcos_rpn.errors import UserError
from tests.data.small_coco import coco_with_shapes, write_coco


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


@st.composite
def mutated_coco(draw: st.DrawFn) -> object:
    """COCO's dictionary with one to three values replaced or deleted."""
    root: dict = {"content": coco_with_shapes()}
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(paths_into(root)[1:]))
        node = functools.reduce(operator.getitem, parents, root)
        if parents and draw(st.integers(0, 3)) == 0:
            del node[last]
        else:
            node[last] = draw(ANY_JSON)
    return root["content"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=mutated_coco())
def test_any_mutation_is_refused_or_loads(tmp_path, content):
    images, json_file = tmp_path / "photos", tmp_path / "pets.json"
    if not images.is_dir():
        write_coco(tmp_path, content)
    json_file.write_text(json.dumps(content))
    checked = check_json(json_file, images)
    assert all(json.dumps(finding.to_json()) and "\n" not in str(finding) for finding in checked.findings)
    if any(error.kind != "no boxes" for error in checked.errors):
        with pytest.raises(UserError, match=r"pets\.json:"):
            load_annotations(json_file, images)
        return
    loaded = load_annotations(json_file, images)
    json_file.write_text(json.dumps(loaded.content))
    assert load_annotations(json_file, images).repairs == {}
    for image in load_coco_json(str(json_file), str(images)):
        for annotation in image.get("annotations", ()):
            x, y, width, height = annotation["bbox"]
            assert min(x, y) >= -0.02
            assert min(width, height) > 0
            assert x + width <= image["width"] + 0.02
            assert y + height <= image["height"] + 0.02
            transform_instance_annotations(annotation, TransformList([]), (image["height"], image["width"]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_give_findings(tmp_path, data):
    content = bytearray(json.dumps(coco_with_shapes()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    json_file = tmp_path / "pets.json"
    json_file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert all(str(finding) for finding in check_json(json_file, tmp_path).findings)
