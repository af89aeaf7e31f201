from collections import Counter

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances

from fcos_rpn import FCOSAssigner, UserError, compute_locations
from fcos_rpn.analysis import ambiguous_samples, best_possible_recall
from fcos_rpn.analysis.annotated_boxes import ImageGroup
from fcos_rpn.analysis.assignment import LocationSampler, assign
from tests import naive
from tests.tiny import tiny_config

STRIDES = [8, 16, 32]
SIZES_OF_INTEREST = [32.0, 64.0]
GRID_SIZES = [(16, 20), (8, 10), (4, 5)]  # of 128 x 160 pixels


def assigner(radius: float) -> FCOSAssigner:
    return FCOSAssigner(num_classes=3, sizes_of_interest=SIZES_OF_INTEREST, center_sampling_radius=radius)


def random_image(generator: torch.Generator, num_boxes: int) -> Instances:
    """Multiples of 1/4; crowded, and with boxes that are too thin to hold a location."""
    center = torch.rand(num_boxes, 2, generator=generator) * torch.tensor([160, 128])
    sides = torch.exp(torch.rand(num_boxes, 2, generator=generator) * 4.5 + 0.5)
    boxes = (torch.cat([center - sides / 2, center + sides / 2], dim=1) * 4).round() / 4
    classes = torch.randint(3, (num_boxes,), generator=generator)
    return Instances((128, 160), gt_boxes=Boxes(boxes), gt_classes=classes)


@pytest.mark.parametrize("radius", [0.0, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_naive_oracle(radius, seed):
    generator = torch.Generator().manual_seed(seed)
    images = [random_image(generator, num_boxes) for num_boxes in (25, 0, 40)]
    locations = compute_locations(GRID_SIZES, STRIDES)
    points = naive.locations(GRID_SIZES, STRIDES)
    per_box: list[int] = []
    per_level: Counter[int] = Counter()
    num_ambiguous = num_across_classes = 0
    for image in images:
        boxes, classes = image.gt_boxes.tensor.tolist(), image.gt_classes.tolist()
        matched = naive.assign(points, boxes, SIZES_OF_INTEREST, radius)
        per_box += [matched.count(m) for m in range(len(boxes))]
        per_level.update(points[r][3] for r, m in enumerate(matched) if m >= 0)
        candidates = naive.candidates(points, boxes, SIZES_OF_INTEREST, radius)
        for r in range(len(points)):
            rivals = [m for where, m in candidates if where == r]
            num_ambiguous += len(rivals) > 1
            num_across_classes += len({classes[m] for m in rivals}) > 1

    found = assign(
        assigner(radius),
        locations,
        boxes=Boxes.cat([image.gt_boxes for image in images]).tensor,
        classes=torch.cat([image.gt_classes for image in images]),
        image_idxs=torch.tensor([0] * 25 + [2] * 40),
        num_images=3,
    )
    assert found.positives_per_box.tolist() == per_box
    assert found.positives_per_level.tolist() == [per_level[level] for level in range(3)]
    assert (found.num_ambiguous, found.num_ambiguous_across_classes) == (num_ambiguous, num_across_classes)
    assert 0 < num_across_classes < num_ambiguous
    assert 0 in per_box

    recall = 100 * sum(n > 0 for n in per_box) / 65
    assert best_possible_recall(assigner(radius), locations, images) == pytest.approx(recall)
    share = 100 * num_ambiguous / sum(per_box), 100 * num_across_classes / sum(per_box)
    assert ambiguous_samples(assigner(radius), locations, images) == pytest.approx(share)


def test_by_hand():
    """One level of stride 8, so locations at 4, 12, 20, ...; the whole box is sampled.

    a = (0, 0, 16, 16) holds 4 locations. b = (8, 8, 24, 24), of the same area and so behind a, holds 4, of which
    (12, 12) is a's. c = (0, 0, 8, 8) takes (4, 4) from a. d = (5, 5, 11, 11) holds none.
    Positives: 4 + 4 - 1 = 7; ambiguous: (12, 12) of a and b, (4, 4) of a and c.
    """
    boxes = torch.tensor([[0, 0, 16, 16], [8, 8, 24, 24], [0, 0, 8, 8], [5, 5, 11, 11]], dtype=torch.float32)
    one_level = FCOSAssigner(num_classes=3, sizes_of_interest=[], center_sampling_radius=0.0)
    locations = compute_locations([(4, 4)], [8])

    def image(classes):
        return [Instances((32, 32), gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes))]

    assert best_possible_recall(one_level, locations, image([0, 0, 0, 0])) == 75
    assert ambiguous_samples(one_level, locations, image([0, 0, 0, 0])) == pytest.approx((200 / 7, 0))
    assert ambiguous_samples(one_level, locations, image([0, 1, 0, 1])) == pytest.approx((200 / 7, 100 / 7))
    assert ambiguous_samples(one_level, locations, image([0, 1, 2, 1])) == pytest.approx((200 / 7, 200 / 7))


def test_a_third_box_of_another_class_counts_where_the_two_smallest_agree():
    """All three boxes hold (12, 12) alone; the largest is of another class."""
    boxes = torch.tensor([[9, 9, 15, 15], [8, 9, 15, 15], [8, 8, 15, 15]], dtype=torch.float32)
    one_level = FCOSAssigner(num_classes=2, sizes_of_interest=[], center_sampling_radius=0.0)
    image = Instances((32, 32), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 0, 1]))
    assert ambiguous_samples(one_level, compute_locations([(4, 4)], [8]), [image]) == (100, 100)


def test_no_boxes():
    locations = compute_locations(GRID_SIZES, STRIDES)
    nothing = [Instances((128, 160), gt_boxes=Boxes(torch.empty(0, 4)), gt_classes=torch.empty(0, dtype=torch.int64))]
    assert best_possible_recall(assigner(1.5), locations, nothing) == 100
    assert ambiguous_samples(assigner(1.5), locations, nothing) == (0, 0)


SHAPES = {f"p{level}": ShapeSpec(channels=64, stride=2**level) for level in range(2, 8)}


def test_sampler_of_a_config():
    cfg = tiny_config()
    sampler = LocationSampler(cfg, SHAPES, in_features=["p2", "p3"], num_classes=80)
    assert sampler.level_names == ["p2", "p3"]
    assert sampler.strides == [4, 8]
    assert sampler.assigner.ranges == [(0.0, 32.0), (32.0, float("inf"))]
    assert sampler.outputs_per_sample == 85  # 80 classes, 4 distances, 1 centerness
    assert sampler.num_per_level((60, 100)) == [15 * 25, 8 * 13]
    for centerness, outputs in (("iou", 85), ("none", 84), ("computed", 84)):
        cfg.MODEL.FCOS.CENTERNESS = centerness
        sampler = LocationSampler(cfg, SHAPES, in_features=["p2", "p3"], num_classes=80)
        assert sampler.outputs_per_sample == outputs
    with pytest.raises(UserError, match="in_features has p9, but the backbone gives"):
        LocationSampler(cfg, SHAPES, in_features=["p9"], num_classes=80)


def test_a_generator_of_proposals_has_one_class():
    group = ImageGroup(
        padded_size=(32, 32),
        num_images=1,
        boxes=torch.tensor([[9.0, 9, 15, 15], [8, 9, 15, 15]]),
        classes=torch.tensor([4, 7]),
        image_idxs=torch.tensor([0, 0]),
        rows=torch.tensor([0, 1]),
    )
    one, many = (
        LocationSampler(tiny_config(), SHAPES, in_features=["p3", "p4"], num_classes=num_classes).assign(group)
        for num_classes in (1, 80)
    )
    assert (one.num_ambiguous, one.num_ambiguous_across_classes) == (1, 0)
    assert (many.num_ambiguous, many.num_ambiguous_across_classes) == (1, 1)
