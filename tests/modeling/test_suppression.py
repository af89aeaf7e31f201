import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from fcos_rpn.modeling import postprocess
from fcos_rpn.modeling.postprocess import best_after_nms


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([low, low + 1 + torch.rand(count, 2, generator=generator) * 40], dim=1)
    return boxes, torch.rand(count, generator=generator), torch.randint(3, (count,), generator=generator)


@given(st.integers(0, 60), st.integers(0, 70), st.floats(0, 1), st.integers(0, 10_000))
def test_equals_the_first_of_torchvision(count, num_wanted, iou_threshold, seed):
    boxes, scores, groups = random_boxes(count, seed)
    expected = batched_nms(boxes, scores, groups, iou_threshold)[:num_wanted]
    found = best_after_nms(boxes, scores, groups, iou_threshold, num_wanted=num_wanted)
    assert found.tolist() == expected.tolist()


def test_boxes_of_many_groups_are_not_rounded():
    """torchvision moves groups apart by thousands of pixels, which rounds an IoU of .5 to one above in some of them."""
    x = 1.48876977
    pair = torch.tensor([[x, x, x + 1000, x + 96], [x, x + 32, x + 1000, x + 128]])  # 64 of 128 rows are common
    boxes, groups, scores = pair.repeat(80, 1), torch.arange(80).repeat_interleave(2), torch.linspace(1, 0, 160)
    assert len(best_after_nms(boxes, scores, groups, 0.5, num_wanted=200)) == 160
    assert len(batched_nms(boxes, scores, groups, 0.5)) < 160


@pytest.mark.parametrize(
    ("iou_threshold", "num_wanted", "expected"),
    [
        (1.0, 5, [10]),  # none is suppressed, so that twice as many as wanted are enough
        (0.0, 5, [10, 40, 100]),  # the boxes of one group all touch: three stay of any number
        (1.0, 60, [100]),
    ],
)
def test_looks_at_no_more_than_it_takes(monkeypatch, iou_threshold, num_wanted, expected):
    seen = []

    def spy(boxes, *args):
        seen.append(len(boxes))
        return by_group(boxes, *args)

    by_group = postprocess._nms_by_group
    monkeypatch.setattr(postprocess, "_nms_by_group", spy)
    _, scores, groups = random_boxes(100, seed=0)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(100, 1)
    boxes[:, 2] += torch.arange(100.0)
    best_after_nms(boxes, scores, groups, iou_threshold, num_wanted=num_wanted)
    assert seen == expected
