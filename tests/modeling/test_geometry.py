import pytest
import torch

from fcos_rpn import compute_centerness, compute_locations, decode_boxes, encode_boxes


def test_locations_lie_at_half_a_stride():
    found = compute_locations([(2, 3), (1, 2)], [8, 16])
    # ⌊8/2⌋ + x·8 = 4, 12, 20 in rows y = 4, 12; then ⌊16/2⌋ + x·16 = 8, 24
    assert found.points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert found.strides.tolist() == [8] * 6 + [16] * 2
    assert found.grid_sizes == ((2, 3), (1, 2))
    assert found.num_per_level == [6, 2]


@pytest.mark.parametrize(("offset", "first"), [(0.0, 0), (0.5, 4), (0.25, 2)])
def test_offset_moves_the_first_location(offset, first):
    assert compute_locations([(1, 2)], [8], offset=offset).points.tolist() == [[first, first], [first + 8, first]]


def test_encode_is_equation_1_in_strides():
    # (20, 12) in (4, 4, 60, 44): l = 16, t = 8, r = 40, b = 32; stride 8 -> 2, 1, 5, 4
    ltrb = encode_boxes(torch.tensor([20.0, 12]), torch.tensor(8.0), torch.tensor([4.0, 4, 60, 44]))
    assert ltrb.tolist() == [2, 1, 5, 4]


def test_decode_inverts_encode_bit_for_bit():
    """Around the point, beside it and inside out. Float32 rounds nothing, since coordinates are multiples of 1/4."""
    points, boxes = torch.randint(-(2**18), 2**18, (500, 2)) / 4, torch.randint(-(2**18), 2**18, (500, 4)) / 4
    strides = 2.0 ** torch.randint(0, 9, (500,))
    assert torch.equal(decode_boxes(points, strides, encode_boxes(points, strides, boxes)), boxes)


def test_centerness_is_equation_3():
    # √(min(1, 3)/max(1, 3) · min(2, 4)/max(2, 4)) = √(1/3 · 1/2) = √(1/6)
    found = compute_centerness(torch.tensor([[1.0, 2, 3, 4], [2, 5, 2, 5]]))
    torch.testing.assert_close(found, torch.tensor([(1 / 6) ** 0.5, 1.0]))


def test_centerness_of_boxes_without_size_is_zero():
    """A ReLU may predict them."""
    assert compute_centerness(torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 2, 1]])).tolist() == [0, 0, 0]
