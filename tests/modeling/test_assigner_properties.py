import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st

from fcos_rpn import FCOSAssigner, compute_locations
from tests import naive

SIZE = (96, 128)
STRIDES = [8, 16, 32]
GRID_SIZES = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
LOCATIONS = compute_locations(GRID_SIZES, STRIDES)
POINTS = naive.locations(GRID_SIZES, STRIDES)
SIZES_OF_INTEREST = [32.0, 64.0]
NUM_CLASSES = 3

# Multiples of 1/4, of which float32 rounds nothing: sides, centers and largest distances lie on locations and on ends
# of ranges.
coordinates = st.integers(-80, 600).map(lambda n: n / 4)
sides = st.integers(0, 600).map(lambda n: n / 4)
boxes_in_order = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinates, coordinates, sides, sides)
boxes_of_any_kind = st.tuples(coordinates, coordinates, coordinates, coordinates)  # also inside out
box_lists = st.lists(boxes_in_order | boxes_of_any_kind, max_size=8).flatmap(
    lambda boxes: (
        st.lists(st.sampled_from(boxes), max_size=3).map(lambda again: boxes + again) if boxes else st.just(boxes)
    )
)
radii = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.25])


def instances(boxes, classes):
    tensor = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Instances(SIZE, gt_boxes=Boxes(tensor), gt_classes=torch.tensor(classes, dtype=torch.int64))


def assigner(radius):
    return FCOSAssigner(num_classes=NUM_CLASSES, sizes_of_interest=SIZES_OF_INTEREST, center_sampling_radius=radius)


@given(st.lists(box_lists, min_size=1, max_size=3), radii)
def test_equals_the_naive_oracle(images, radius):
    gt = [instances(boxes, [m % NUM_CLASSES for m in range(len(boxes))]) for boxes in images]
    targets = assigner(radius)(LOCATIONS, gt)
    for image, boxes in enumerate(images):
        expected = naive.assign(POINTS, boxes, SIZES_OF_INTEREST, radius)
        assert targets.matched_idxs[image].tolist() == expected
        assert targets.labels[image].tolist() == [m % NUM_CLASSES if m >= 0 else NUM_CLASSES for m in expected]
    num_positives = sum(matched >= 0 for matched in targets.matched_idxs.flatten().tolist())
    assert len(targets.positives) == len(targets.ltrb) == num_positives
    assert (targets.ltrb > 0).all()


@given(box_lists, radii, st.randoms(use_true_random=False))
def test_the_order_of_the_boxes_decides_between_equal_areas_only(boxes, radius, random):
    order = list(range(len(boxes)))
    random.shuffle(order)
    (before,) = assigner(radius)(LOCATIONS, [instances(boxes, [0] * len(boxes))]).matched_idxs.tolist()
    shuffled = [boxes[m] for m in order]
    (after,) = assigner(radius)(LOCATIONS, [instances(shuffled, [0] * len(boxes))]).matched_idxs.tolist()
    for one, other in zip(before, after, strict=True):
        assert (one < 0) == (other < 0)
        if one >= 0 and one != order[other]:
            assert area(boxes[one]) == area(shuffled[other])


def area(box):
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)
