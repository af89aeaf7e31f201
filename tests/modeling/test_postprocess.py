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
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_naive_oracle(settings, num_classes, seed):
    found = predictions(2, num_classes, seed)
    for image, instances in enumerate(FCOSPostProcessor(**settings)(found, LOCATIONS, [SIZE, SIZE])):
        expected = naive.select(
            found.logits[image].tolist(),
            found.ltrb[image].tolist(),
            found.centerness[image].tolist(),
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


def test_threshold_is_on_the_class_and_rank_on_the_fused_score():
    # Class probabilities .73 and .62; the first is hardly central, so the second ranks first.
    boxes = {11: (1.0, -3.0, [1.0] * 4), 16: (0.5, 3.0, [1.0] * 4), 30: (-1.0, 9.0, [1.0] * 4)}
    (instances,) = FCOSPostProcessor(**DETECTOR)(nothing_but(boxes), LOCATIONS, [SIZE])
    centers = instances.pred_boxes.get_centers().tolist()
    assert centers == [LOCATIONS.points[16].tolist(), LOCATIONS.points[11].tolist()]  # 30's class is .27 < .3


def test_the_threshold_may_be_on_the_fused_score():
    # Of the same boxes: √(.73 · .05) = .19 < .3, √(.62 · .95) = .77, √(.27 · 1) = .52
    boxes = {11: (1.0, -3.0, [1.0] * 4), 16: (0.5, 3.0, [1.0] * 4), 30: (-1.0, 9.0, [1.0] * 4)}
    (instances,) = FCOSPostProcessor(**DETECTOR, thresh_on="fused")(nothing_but(boxes), LOCATIONS, [SIZE])
    assert instances.location_idxs.tolist() == [16, 30]


def test_one_location_may_have_several_classes():
    found = nothing_but({11: (2.0, 0.0, [1.0] * 4)}, num_classes=2)
    found.logits[0, 11, 1] = 1.0
    (instances,) = FCOSPostProcessor(**DETECTOR)(found, LOCATIONS, [SIZE])
    assert instances.pred_classes.tolist() == [0, 1]


def test_without_centerness_the_score_is_the_class_probability():
    found = predictions()._replace(centerness=None)
    (instances,) = FCOSPostProcessor(**DETECTOR)(found, LOCATIONS, [SIZE])
    expected = naive.select(found.logits[0].tolist(), found.ltrb[0].tolist(), None, POINTS, SIZE, **DETECTOR)
    torch.testing.assert_close(instances.scores, torch.tensor([score for score, _, _ in expected]))


def test_a_computed_centerness_takes_the_place_of_a_predicted_one():
    # Sides 1, 1, 3, 1 strides: √(1/3 · 1/1) = .577; fused with σ(0) = .5: √.289 = .537
    found = nothing_but({11: (0.0, 9.0, [1.0, 1.0, 3.0, 1.0])})
    (instances,) = FCOSPostProcessor(**DETECTOR, computes_centerness=True)(found, LOCATIONS, [SIZE])
    assert instances.scores.tolist() == pytest.approx([0.5373], abs=1e-4)


def test_boxes_tell_the_location_that_they_were_seen_from():
    boxes = {11: (1.0, 0.0, [1.0] * 4), 80 + 6: (2.0, 0.0, [1.0] * 4), 100 + 3: (0.5, 0.0, [0.5] * 4)}
    (instances,) = FCOSPostProcessor(**DETECTOR)(nothing_but(boxes, num_classes=2), LOCATIONS, [(64, 96)])
    assert instances.location_idxs.tolist() == [86, 11, 103]


def test_topk_counts_per_level():
    settings = {**PROPOSALS, "pre_nms_topk": 2, "nms_thresh": 1.0, "post_nms_topk": 100}
    (instances,) = FCOSPostProcessor(**settings)(predictions(num_classes=1), LOCATIONS, [(64, 96)])
    assert len(instances) == 6  # 2 of each of 3 levels


def test_ties_do_not_give_more_than_k():
    found = nothing_but({})
    (instances,) = FCOSPostProcessor(**{**PROPOSALS, "post_nms_topk": 5})(found, LOCATIONS, [SIZE])
    assert len(instances) == 5


@pytest.mark.parametrize(("nms_per_level", "expected"), [(True, 2), (False, 1)])
def test_suppression_per_level_or_over_all(nms_per_level, expected):
    # Around (28, 28) and (24, 24), squares of side 32: IoU 28²/(2·32² − 28²) = .62
    boxes = {33: (2.0, 0.0, [2.0] * 4), 80 + 6: (1.0, 0.0, [1.0] * 4)}
    settings = {**PROPOSALS, "nms_per_level": nms_per_level, "score_thresh": 0.3}
    (instances,) = FCOSPostProcessor(**settings)(nothing_but(boxes), LOCATIONS, [SIZE])
    assert len(instances) == expected


def test_boxes_in_the_padding_are_dropped_before_they_suppress():
    """A location in the padding clips to a box without area; Detectron2's RPN drops such boxes too."""
    where = 9  # row 0, column 9 of stride 8: x = 76, beyond the image's 75
    (instances,) = FCOSPostProcessor(**PROPOSALS)(nothing_but({where: (9.0, 9.0, [0.1] * 4)}), LOCATIONS, [SIZE])
    assert (instances.pred_boxes.area() > 0).all()
    assert instances.scores.max().item() < 0.5


def test_small_boxes_are_dropped():
    found = nothing_but({11: (2.0, 0.0, [0.2] * 4), 16: (1.0, 0.0, [1.0] * 4)})  # sides 3.2 and 16 pixels
    for min_box_size, expected in ((0.0, 2), (3.0, 2), (4.0, 1), (16.0, 0)):
        settings = {**PROPOSALS, "min_box_size": min_box_size, "score_thresh": 0.3}
        (instances,) = FCOSPostProcessor(**settings)(found, LOCATIONS, [SIZE])
        assert len(instances) == expected


@pytest.mark.parametrize("settings", [DETECTOR, PROPOSALS])
def test_what_is_not_finite_is_dropped(settings):
    found = nothing_but({where: (2.0, 0.0, [1.0] * 4) for where in (11, 15, 33, 37)})
    found.logits[0, 15, 0] = float("nan")
    found.centerness[0, 33] = float("nan")
    found.ltrb[0, 37, 0] = float("inf")
    (instances,) = FCOSPostProcessor(**settings)(found, LOCATIONS, [SIZE])
    assert torch.isfinite(instances.pred_boxes.tensor).all()
    assert (instances.scores > 0.5).sum() == 1


def test_no_candidates():
    (instances,) = FCOSPostProcessor(**{**DETECTOR, "score_thresh": 0.99})(nothing_but({}), LOCATIONS, [SIZE])
    assert len(instances) == 0
    assert instances.pred_boxes.tensor.shape == (0, 4)


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


def test_a_selection_is_that_of_the_instances_and_suppresses_as_it_is_told():
    found = predictions()
    postprocessor = FCOSPostProcessor(**DETECTOR)
    scores = postprocessor.candidate_scores(found)
    assert ((scores == -1) == (found.logits.sigmoid() <= 0.3)).all()
    (instances,) = postprocessor(found, LOCATIONS, [SIZE])
    selection = postprocessor.select(scores[0], found.ltrb[0], LOCATIONS, SIZE)
    fields = (instances.pred_boxes.tensor, instances.scores, instances.pred_classes, instances.location_idxs)
    for ours, expected in zip(selection, fields, strict=True):
        assert torch.equal(ours, expected)

    def keep_the_second_worst(boxes, scores, groups, iou_threshold):
        assert iou_threshold == 0.6
        assert groups.unique().tolist() == [0, 1, 2]  # the classes
        return scores.argsort()[1:2]

    selection = postprocessor.select(scores[0], found.ltrb[0], LOCATIONS, SIZE, suppress=keep_the_second_worst)
    assert [len(field) for field in selection] == [1, 1, 1, 1]
    assert selection.scores[0] <= instances.scores[-1]


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
