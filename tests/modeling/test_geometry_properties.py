import torch
from hypothesis import given
from hypothesis import strategies as st

from fcos_rpn import compute_centerness, decode_boxes, encode_boxes

# Multiples of 1/4 up to 2^16: sums and differences of two have less than the 24 bits of a float32, and a division by a
# power of two changes no bit, so that nothing is rounded.
coordinates = st.integers(-(2**18), 2**18).map(lambda n: n / 4)
points = st.tuples(coordinates, coordinates)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)
strides = st.integers(0, 8).map(lambda n: 2.0**n)
distances = st.tuples(*[st.integers(-(2**10), 2**10).map(lambda n: n / 4)] * 4)  # in strides; 2^16 pixels at most


@given(st.lists(st.tuples(points, strides, boxes), min_size=1, max_size=20))
def test_decode_inverts_encode_bit_for_bit(cases):
    """Of whatever box: around the point, beside it, inside out."""
    at, stride, box = (torch.tensor(part) for part in zip(*cases, strict=True))
    assert torch.equal(decode_boxes(at, stride, encode_boxes(at, stride, box)), box)


@given(st.lists(st.tuples(points, strides, distances), min_size=1, max_size=20))
def test_encode_inverts_decode_bit_for_bit(cases):
    at, stride, ltrb = (torch.tensor(part) for part in zip(*cases, strict=True))
    assert torch.equal(encode_boxes(at, stride, decode_boxes(at, stride, ltrb)), ltrb)


@given(st.tuples(*[st.floats(0, 1e6, width=32)] * 4))
def test_centerness_is_between_0_and_1(ltrb):
    """1 at the center, 0 on a side."""
    left, top, right, bottom = ltrb
    found = compute_centerness(torch.tensor(ltrb)).item()
    assert 0 <= found <= 1
    if 0 in ltrb:
        assert found == 0
    elif left == right and top == bottom:
        assert found == 1
