import pytest
import torch

from fcos_rpn import compute_centerness, compute_locations, decode_boxes, encode_boxes
from tests import naive


def test_locations_lie_at_half_a_stride():
    found = compute_locations([(2, 3), (1, 2)], [8, 16])
    # ⌊8/2⌋ + x·8 = 4, 12, 20 in rows y = 4, 12; then ⌊16/2⌋ + x·16 = 8, 24
    assert found.points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert found.strides.tolist() == [8] * 6 + [16] * 2
    assert found.grid_sizes == ((2, 3), (1, 2))
    assert found.num_per_level == [6, 2]


def test_locations_of_a_whole_pyramid_equal_the_naive_ones():
    grid_sizes, strides = [(13, 17), (7, 9), (4, 5), (2, 3), (1, 2)], [8, 16, 32, 64, 128]
    found = compute_locations(grid_sizes, strides)
    expected = naive.locations(grid_sizes, strides)
    assert found.points.tolist() == [[x, y] for x, y, _, _ in expected]


@pytest.mark.parametrize(("offset", "first"), [(0.0, 0), (0.5, 4), (0.25, 2)])
def test_offset_moves_the_first_location(offset, first):
    assert compute_locations([(1, 2)], [8], offset=offset).points.tolist() == [[first, first], [first + 8, first]]


def test_encode_is_equation_1_in_strides():
    # (20, 12) in (4, 4, 60, 44): l = 16, t = 8, r = 40, b = 32; stride 8 -> 2, 1, 5, 4
    ltrb = encode_boxes(torch.tensor([20.0, 12]), torch.tensor(8.0), torch.tensor([4.0, 4, 60, 44]))
    assert ltrb.tolist() == [2, 1, 5, 4]


def test_decode_multiplies_by_the_stride():
    box = decode_boxes(torch.tensor([[20.0, 12]]), torch.tensor([8.0]), torch.tensor([[2.0, 1, 5, 4]]))
    assert box.tolist() == [[4, 4, 60, 44]]


def test_centerness_is_equation_3():
    # √(min(1, 3)/max(1, 3) · min(2, 4)/max(2, 4)) = √(1/3 · 1/2) = √(1/6)
    found = compute_centerness(torch.tensor([[1.0, 2, 3, 4], [2, 5, 2, 5]]))
    torch.testing.assert_close(found, torch.tensor([(1 / 6) ** 0.5, 1.0]))


def test_centerness_of_boxes_without_size_is_zero():
    """A ReLU may predict them."""
    assert compute_centerness(torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 2, 1]])).tolist() == [0, 0, 0]


def test_centerness_has_no_unit():
    ltrb = torch.rand(20, 4) + 0.1
    torch.testing.assert_close(compute_centerness(ltrb), compute_centerness(ltrb * 32))
