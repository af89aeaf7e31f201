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
    per_box, per_level, num_ambiguous, num_across_classes = naive.assignment_figures(
        [(points, image.gt_boxes.tensor.tolist(), image.gt_classes.tolist()) for image in images],
        SIZES_OF_INTEREST,
        radius,
    )

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
