import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from fcos_rpn import FCOSAssigner, compute_locations
from fcos_rpn.modeling import assigner as assigner_module
from tests import naive

STRIDES = [8, 16, 32, 64, 128]
SIZES_OF_INTEREST = [64.0, 128.0, 256.0, 512.0]


def grid_sizes(height, width):
    return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]


def instances(boxes, classes=None, size=(256, 320)):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4)
    classes = torch.arange(len(boxes)) % 3 if classes is None else torch.tensor(classes)
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes.long())


def assigner(radius=1.5, **overrides):
    return FCOSAssigner(
        **{"num_classes": 3, "sizes_of_interest": SIZES_OF_INTEREST, "center_sampling_radius": radius, **overrides}
    )


def random_boxes(generator, count, height, width):
    """Multiples of 1/4, so that float32 arithmetic is exact and ties and bounds are really hit."""
    center = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    sides = torch.exp(torch.rand(count, 2, generator=generator) * 5.5 + 1)
    boxes = torch.cat([center - sides / 2, center + sides / 2], dim=1)
    return (boxes * 4).round() / 4


ADVERSARIAL = [
    [0, 0, 0, 0],  # no size
    [50, 50, 50, 90],  # no width
    [90, 90, 50, 50],  # inside out
    [0, 0, 320, 256],  # the whole image
    [-1000, -1000, 2000, 2000],  # far beyond it
    [500, 500, 600, 600],  # outside
    [-64, -64, -1, -1],
    [4, 4, 12, 12],  # its sides and center on locations
    [3.75, 3.75, 4.25, 4.25],  # around a single location
    [100, 100, 164, 164],
    [100, 100, 164, 164],  # the same again
    [100, 100, 228, 132],  # another shape of the same area
    [1e7, 1e7, 2e7, 2e7],
]


@pytest.mark.parametrize("radius", [1.5, 1.0, 2.0, 0.7, 3.25, 0.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_naive_oracle(radius, seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = [(256, 320), (300, 200), (96, 640), (64, 64)][seed]
    locations = compute_locations(grid_sizes(height, width), STRIDES)
    images = [random_boxes(generator, count, height, width) for count in (12, 0, 40)]
    images.append(torch.tensor(ADVERSARIAL, dtype=torch.float32))

    targets = assigner(radius)(locations, [instances(boxes, size=(height, width)) for boxes in images])

    assert (targets.ltrb > 0).all()
    points = naive.locations(grid_sizes(height, width), STRIDES)
    for image, boxes in enumerate(images):
        expected = naive.assign(points, boxes.tolist(), SIZES_OF_INTEREST, radius)
        assert targets.matched_idxs[image].tolist() == expected
        assert targets.labels[image].tolist() == [m % 3 if m >= 0 else 3 for m in expected]
        pairs = list(zip(*map(torch.Tensor.tolist, assigner(radius).candidates(locations, boxes)), strict=True))
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == naive.candidates(points, boxes.tolist(), SIZES_OF_INTEREST, radius)


def test_by_hand():
    """One box (8, 8, 40, 24), center (24, 16), on a 4 × 6 grid of stride 8: locations 4, 12, 20, ... both ways.

    Inside: x in 12, 20, 28, 36 and y in 12, 20. Within 1.5·8 = 12 of the center: x in 20, 28 (12 and 36 lie exactly at
    12, which is not inside), y in 12, 20.
    """
    locations = compute_locations([(4, 6)], [8])
    targets = assigner(sizes_of_interest=[])(locations, [instances([[8, 8, 40, 24]], classes=[2])])
    positive = [6 + 2, 6 + 3, 12 + 2, 12 + 3]  # rows 1 and 2, columns 2 and 3
    assert targets.positives.tolist() == positive
    assert targets.labels[0].tolist() == [2 if r in positive else 3 for r in range(24)]
    # (20, 12): l = 12, t = 4, r = 20, b = 12 pixels -> 1.5, .5, 2.5, 1.5 strides
    assert targets.ltrb[0].tolist() == [1.5, 0.5, 2.5, 1.5]


def test_ranges_include_both_ends():
    """The paper's m_{i-1} <= max <= m_i: a largest distance of exactly 64 belongs to P3 and to P4.

    Detectron2 and torchvision are strict at both ends, so that no level learns such a box there.
    """
    locations = compute_locations([(32, 40), (16, 20)], [8, 16])
    # From (100, 100) of P3 the distances are 64 all round; from (104, 104) of P4 68 and 60.
    found = assigner(sizes_of_interest=[64.0])(locations, [instances([[36, 36, 164, 164]])])
    of_p3 = found.labels[0, : 32 * 40].view(32, 40)
    assert of_p3[12, 12] == 0  # x = 4 + 12·8 = 100
    assert (of_p3 != 3).sum() == 1  # its neighbours see 72
    # From (88, 88) of P4 the box (24, 24, 152, 152) spans 64 all round.
    found = assigner(sizes_of_interest=[64.0])(locations, [instances([[24, 24, 152, 152]])])
    of_p4 = found.labels[0, 32 * 40 :].view(16, 20)
    assert of_p4[5, 5] == 0  # x = 8 + 5·16 = 88


def test_the_smallest_box_wins_exactly():
    """In float32 1e8 - 10000 and 1e8 - 10003 are one number: there the lower index wins (detectron2, torchvision)."""
    larger, smaller = [50.0, 50.0, 50 + 10003 / 100, 150.0], [50.0, 50.0, 150.0, 150.0]  # 10003 and 10000 px²
    locations = compute_locations(grid_sizes(256, 320), STRIDES)
    for boxes, expected in (([larger, smaller], 1), ([smaller, larger], 0)):
        matched = assigner()(locations, [instances(boxes)]).matched_idxs
        assert set(matched[matched >= 0].tolist()) == {expected}


def test_chunks_do_not_change_the_result(monkeypatch):
    generator = torch.Generator().manual_seed(7)
    locations = compute_locations(grid_sizes(256, 320), STRIDES)
    gt = [instances(random_boxes(generator, 30, 256, 320))]
    whole = assigner(0.0)(locations, gt)
    monkeypatch.setattr(assigner_module, "MAX_BYTES_AT_ONCE", 1)
    for one, other in zip(whole, assigner(0.0)(locations, gt), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("radius", "most"), [(1.5, 1), (0.0, 4)])
def test_never_builds_a_large_tensor(radius, most):
    """All pairs of 4,000 boxes and 22,300 locations would take 89 MB as a mask; without center sampling a distance in
    float32 stands beside the mask, whose size is what is bounded."""
    generator = torch.Generator().manual_seed(8)
    locations = compute_locations(grid_sizes(800, 1333), STRIDES)
    gt = [instances(random_boxes(generator, 2000, 800, 1333)) for _ in range(2)]
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return result

    with Watch():
        assigner(radius)(locations, gt)
    assert 0.5 * assigner_module.MAX_BYTES_AT_ONCE < largest <= most * assigner_module.MAX_BYTES_AT_ONCE


def test_ranges_must_match_the_levels():
    with pytest.raises(ValueError, match="1 ranges of sizes for 2 levels"):
        assigner(sizes_of_interest=[])(compute_locations([(4, 4), (2, 2)], [8, 16]), [instances([[0, 0, 9, 9]])])
