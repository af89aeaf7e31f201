import pytest
import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms, nms

from fcos_rpn import FCOSPostProcessor, FCOSPredictions, compute_locations
from fcos_rpn.modeling import postprocess
from fcos_rpn.modeling.postprocess import best_after_nms, move_apart, rescale
from tests import naive

GRID_SIZES, STRIDES = [(8, 10), (4, 5), (2, 3)], [8, 16, 32]
LOCATIONS = compute_locations(GRID_SIZES, STRIDES)
POINTS = naive.locations(GRID_SIZES, STRIDES)
SIZE = (60, 75)  # smaller than the grid's 64 × 80: some locations lie in the padding

DETECTOR = {"score_thresh": 0.3, "pre_nms_topk": 20, "nms_thresh": 0.6, "post_nms_topk": 15}
PROPOSALS = {**DETECTOR, "score_thresh": None, "nms_per_level": True, "min_box_size": 4.0}


def predictions(num_images=1, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    num_locations = len(LOCATIONS.points)
    return FCOSPredictions(
        logits=torch.randn(num_images, num_locations, num_classes, generator=generator) * 2,
        ltrb=torch.rand(num_images, num_locations, 4, generator=generator) * 3,
        centerness=torch.randn(num_images, num_locations, generator=generator),
    )


def nothing_but(boxes_by_location, num_classes=1):
    """Predictions that are sure of (logit, centerness, ltrb) at a few locations and hold all others impossible."""
    num_locations = len(LOCATIONS.points)
    found = FCOSPredictions(
        logits=torch.full((1, num_locations, num_classes), -20.0),
        ltrb=torch.ones(1, num_locations, 4),
        centerness=torch.zeros(1, num_locations),
    )
    for where, (logit, centerness, ltrb) in boxes_by_location.items():
        found.logits[0, where, 0] = logit
        found.centerness[0, where] = centerness
        found.ltrb[0, where] = torch.tensor(ltrb)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        DETECTOR,
        PROPOSALS,
        {**PROPOSALS, "nms_per_level": False},
        {**DETECTOR, "score_fusion": "product"},
        {**DETECTOR, "thresh_on": "fused"},
        {**DETECTOR, "thresh_on": "fused", "score_fusion": "product", "score_thresh": 0.2},
        {**DETECTOR, "computes_centerness": True},
    ],
)
@pytest.mark.parametrize(("num_classes", "has_centerness"), [(1, True), (3, True), (3, False)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_naive_oracle(settings, num_classes, has_centerness, seed):
    found = predictions(2, num_classes, seed)
    if not has_centerness:
        found = found._replace(centerness=None)
    for image, instances in enumerate(FCOSPostProcessor(**settings)(found, LOCATIONS, [SIZE, SIZE])):
        expected = naive.select(
            found.logits[image].tolist(),
            found.ltrb[image].tolist(),
            found.centerness[image].tolist() if has_centerness else None,
            POINTS,
            SIZE,
            **settings,
        )
        assert len(instances) == len(expected) > 3
        scores, classes, boxes = zip(*expected, strict=True)
        torch.testing.assert_close(instances.scores, torch.tensor(scores))
        torch.testing.assert_close(instances.pred_boxes.tensor, torch.tensor(boxes), rtol=1e-5, atol=1e-4)
        assert instances.pred_classes.tolist() == list(classes)


def test_by_hand():
    # Location 11 is row 1, column 1 of stride 8: (12, 12). Distances 1, .5, 2, 1 strides -> (4, 8, 28, 20).
    found = nothing_but({11: (0.0, 0.0, [1.0, 0.5, 2.0, 1.0])})
    (instances,) = FCOSPostProcessor(**DETECTOR)(found, LOCATIONS, [SIZE])
    assert instances.pred_boxes.tensor.tolist() == [[4, 8, 28, 20]]
    # √(σ(0) · σ(0)) = .5
    assert instances.scores.tolist() == pytest.approx([0.5])
    assert instances.pred_classes.tolist() == [0]
    assert instances.image_size == SIZE


def test_boxes_tell_the_location_that_they_were_seen_from():
    boxes = {11: (1.0, 0.0, [1.0] * 4), 80 + 6: (2.0, 0.0, [1.0] * 4), 100 + 3: (0.5, 0.0, [0.5] * 4)}
    (instances,) = FCOSPostProcessor(**DETECTOR)(nothing_but(boxes, num_classes=2), LOCATIONS, [(64, 96)])
    assert instances.location_idxs.tolist() == [86, 11, 103]


def test_ties_do_not_give_more_than_k():
    found = nothing_but({})
    (instances,) = FCOSPostProcessor(**{**PROPOSALS, "post_nms_topk": 5})(found, LOCATIONS, [SIZE])
    assert len(instances) == 5


@pytest.mark.parametrize("settings", [DETECTOR, PROPOSALS])
def test_what_is_not_finite_is_dropped(settings):
    found = nothing_but({where: (2.0, 0.0, [1.0] * 4) for where in (11, 15, 33, 37)})
    found.logits[0, 15, 0] = float("nan")
    found.centerness[0, 33] = float("nan")
    found.ltrb[0, 37, 0] = float("inf")
    (instances,) = FCOSPostProcessor(**settings)(found, LOCATIONS, [SIZE])
    assert torch.isfinite(instances.pred_boxes.tensor).all()
    assert (instances.scores > 0.5).sum() == 1


def test_no_gradient_passes_and_predictions_stay():
    found = predictions()
    before = [prediction.clone() for prediction in found]
    for prediction in found:
        prediction.requires_grad_()
    (instances,) = FCOSPostProcessor(**PROPOSALS)(found, LOCATIONS, [SIZE])
    assert not instances.pred_boxes.tensor.requires_grad
    assert not instances.scores.requires_grad
    for prediction, copy in zip(found, before, strict=True):
        assert torch.equal(prediction, copy)


@pytest.mark.parametrize("field", ["pred_boxes", "proposal_boxes"])
def test_rescaling_is_that_of_detectron2(field):
    """Boxes end in the wanted image; the last of the first image has no area."""

    def instances():
        boxes = torch.tensor([[6.0, 12, 30, 24], [70, 50, 90, 70], [80, 10, 90, 20]])
        return [
            Instances((60, 80), **{field: Boxes(boxes.clone())}, scores=torch.tensor([0.9, 0.8, 0.7])),
            Instances((60, 80), **{field: Boxes(boxes[:2].clone())}, scores=torch.tensor([0.6, 0.5])),
            Instances((60, 80), **{field: Boxes(torch.zeros(0, 4))}, scores=torch.zeros(0)),
        ]

    sizes = [(120, 160), (60, 80), (30, 50)]
    rescaled = rescale(instances(), [{"height": 120, "width": 160}, {}, {"height": 30, "width": 50}])
    assert [len(found) for found in rescaled] == [2, 2, 0]
    for found, before, size in zip(rescaled, instances(), sizes, strict=True):
        expected = detector_postprocess(before, *size)
        assert found.image_size == size
        assert torch.equal(found.get(field).tensor, expected.get(field).tensor)
        assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("settings", [DETECTOR, PROPOSALS, {**PROPOSALS, "nms_per_level": False}])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_both_ways_of_selection_are_the_same(monkeypatch, settings, num_classes):
    found = predictions(3, num_classes)
    found.ltrb[0, :50] = found.ltrb[0, 50:100]  # boxes of no size, far away or not finite among the others
    found.ltrb[1, 30:40] = float("inf")
    found.logits[1, 10:20] = float("nan")
    found.logits[2] = -20.0  # no detections
    sizes = [SIZE, (64, 80), (33, 41)]
    on_cpu = FCOSPostProcessor(**settings)(found, LOCATIONS, sizes)
    monkeypatch.setattr(postprocess, "is_on_cpu", lambda _: False)
    on_gpu = FCOSPostProcessor(**settings)(found, LOCATIONS, sizes)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours.image_size == theirs.image_size
        for name, value in theirs.get_fields().items():
            other = ours.get(name)
            assert torch.equal(getattr(other, "tensor", other), getattr(value, "tensor", value)), name
    assert len(on_cpu[0]) > 3


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
    apart = nms(move_apart(boxes, groups, 3), scores, iou_threshold)
    assert apart[:num_wanted].tolist() == expected.tolist()


def test_boxes_of_many_groups_are_not_rounded():
    """torchvision moves groups apart by thousands of pixels, which rounds an IoU of .5 to one above in some of them."""
    x = 1.48876977
    pair = torch.tensor([[x, x, x + 1000, x + 96], [x, x + 32, x + 1000, x + 128]])  # 64 of 128 rows are common
    boxes, groups, scores = pair.repeat(80, 1), torch.arange(80).repeat_interleave(2), torch.linspace(1, 0, 160)
    assert len(best_after_nms(boxes, scores, groups, 0.5, num_wanted=200)) == 160
    for num_groups in (1, 4, 5, 8, 12):
        num_boxes = 2 * num_groups
        assert (
            len(nms(move_apart(boxes[:num_boxes], groups[:num_boxes], num_groups), scores[:num_boxes], 0.5))
            == num_boxes
        )
    assert len(batched_nms(boxes, scores, groups, 0.5)) < 160
