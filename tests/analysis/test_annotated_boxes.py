import json

import pytest
import torch

from fcos_rpn.analysis import annotated_boxes as annotations_module
from fcos_rpn.analysis.annotated_boxes import group_images, input_boxes, input_sizes, padded_sizes, read_boxes
from fcos_rpn.errors import UserError
from tests.data.small_coco import small_coco


@pytest.fixture
def small(tmp_path):
    (tmp_path / "pets.json").write_text(json.dumps(small_coco()))
    return read_boxes(tmp_path / "pets.json")


def test_boxes_without_pictures_and_without_crowds(small):
    assert small.ids.tolist() == [101, 102]  # 103 is a crowd
    assert small.boxes.tolist() == [[10, 20, 30, 40], [0, 0, 80, 60]]
    assert small.classes.tolist() == [1, 0]  # of the category ids 2, 5 and 9
    assert small.num_classes == 3
    assert small.image_idxs.tolist() == [0, 0]
    assert small.image_ids.tolist() == [11, 12, 13, 14]
    assert small.image_sizes.tolist() == [[60, 80]] * 4


def test_boxes_are_sorted_by_image(tmp_path):
    content = small_coco()
    content["annotations"] = [
        {"id": id_, "image_id": image_id, "category_id": 2, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
        for id_, image_id in ((1, 14), (2, 11), (3, 14), (4, 12))
    ]
    (tmp_path / "pets.json").write_text(json.dumps(content))
    found = read_boxes(tmp_path / "pets.json")
    assert found.ids.tolist() == [2, 4, 1, 3]
    assert found.image_idxs.tolist() == [0, 1, 3, 3]
    some = found.of_images(torch.tensor([1, 3]))
    assert some.ids.tolist() == [4, 1, 3]
    assert some.image_idxs.tolist() == [0, 1, 1]
    assert some.image_ids.tolist() == [12, 14]
    assert len(some.image_sizes) == 2


def test_no_boxes(tmp_path):
    content = small_coco()
    content["annotations"] = content["annotations"][2:]  # the crowd
    (tmp_path / "pets.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"pets\.json: no boxes to analyze"):
        read_boxes(tmp_path / "pets.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_boxes(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("min_size", "max_size", "expected"),
    [
        (120, 1000, [120, 160]),  # twice 60 x 80
        (120, 100, [75, 100]),  # the longer side stops it at 1.25
        (0, 100, [60, 80]),  # Detectron2's "not resized"
    ],
)
def test_input_sizes(small, min_size, max_size, expected):
    assert input_sizes(small, min_size=min_size, max_size=max_size).tolist() == [expected] * 4


def test_input_boxes_in_both_conventions(small):
    """The image grows from 60 x 80 to 90 x 160, so 1.5 times in y and twice in x."""
    sizes = torch.tensor([[90, 160]] * 4)
    modern = input_boxes(small, sizes)
    assert modern.dtype == torch.float32
    assert modern.tolist() == [[20, 30, 80, 90], [0, 0, 160, 90]]
    # One original pixel less: 39·2 = 78, 59·1.5 = 88.5; 79·2 = 158, 59·1.5 = 88.5.
    assert input_boxes(small, sizes, convention="legacy").tolist() == [[20, 30, 78, 88.5], [0, 0, 158, 88.5]]


def test_padded_sizes():
    sizes = torch.tensor([[800, 1333], [801, 1344]])
    assert padded_sizes(sizes, 32).tolist() == [[800, 1344], [832, 1344]]
    assert padded_sizes(sizes, 0).tolist() == sizes.tolist()


@pytest.fixture
def six_images(small):
    """Images 0 to 5 with 2, 0, 1, 3, 1, 1 boxes; images 0, 3 and 5 are wide."""
    num_boxes = [2, 0, 1, 3, 1, 1]
    image_idxs = torch.repeat_interleave(torch.tensor(num_boxes))
    annotations = small._replace(
        boxes=torch.arange(8.0).view(8, 1).repeat(1, 4),
        classes=torch.arange(8),
        ids=torch.arange(8),
        image_idxs=image_idxs,
        image_sizes=torch.zeros(6, 2),
    )
    padded = torch.tensor([[32, 64], [32, 32], [32, 32], [32, 64], [32, 32], [32, 64]])
    return annotations, annotations.boxes.float(), padded


def test_groups_of_one_size(six_images):
    wide, square = group_images(*six_images)
    assert wide.padded_size == (32, 64)
    assert wide.num_images == 3
    assert wide.rows.tolist() == [0, 1, 3, 4, 5, 7]
    assert wide.classes.tolist() == wide.boxes[:, 0].tolist() == [0, 1, 3, 4, 5, 7]
    assert wide.image_idxs.tolist() == [0, 0, 1, 1, 1, 2]
    assert square.padded_size == (32, 32)
    assert square.rows.tolist() == [2, 6]  # the image without boxes is in no group
    assert square.image_idxs.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("bound", "value", "expected"),
    [
        ("MAX_BOXES_AT_ONCE", 2, [[0, 1], [3, 4, 5], [7], [2, 6]]),  # the image of 3 boxes alone
        ("MAX_PIXELS_AT_ONCE", 2 * 32 * 64, [[0, 1, 3, 4, 5], [7], [2, 6]]),
        ("MAX_PIXELS_AT_ONCE", 1, [[0, 1], [3, 4, 5], [7], [2], [6]]),
    ],
)
def test_groups_are_bound(six_images, monkeypatch, bound, value, expected):
    monkeypatch.setattr(annotations_module, bound, value)
    assert [group.rows.tolist() for group in group_images(*six_images)] == expected
