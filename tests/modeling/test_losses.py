import math

import pytest
import torch
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from fcos_rpn import FCOSLosses, FCOSPredictions, FCOSTargets
from fcos_rpn.modeling.losses import BOX_LOSSES
from tests import naive

NUM_CLASSES = 3


def batch(labels, ltrb, seed=0):
    """Random predictions for (N, R) labels whose foreground has (P, 4) distances."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(labels)
    predictions = FCOSPredictions(
        logits=torch.randn(*labels.shape, NUM_CLASSES, generator=generator),
        ltrb=torch.rand(*labels.shape, 4, generator=generator) * 3,
        centerness=torch.randn(*labels.shape, generator=generator),
    )
    for prediction in predictions:
        prediction.requires_grad_()
    positives = (labels.flatten() < NUM_CLASSES).nonzero().squeeze(1)
    targets = FCOSTargets(
        labels=labels,
        positives=positives,
        box_idxs=torch.zeros_like(positives),
        ltrb=torch.tensor(ltrb, dtype=torch.float32).view(-1, 4),
    )
    return predictions, targets


def naive_box_loss(name, ltrb, gt_ltrb):
    """Of one box, from its corners, with the formulas of the papers that introduced the losses."""
    if name == "l2":
        return sum((a - b) ** 2 for a, b in zip(ltrb, gt_ltrb, strict=True))
    if name == "smooth_l1":
        distances = [abs(a - b) for a, b in zip(ltrb, gt_ltrb, strict=True)]
        return sum(d**2 / 2 if d < 1 else d - 0.5 for d in distances)
    box, gt = ([-left, -top, right, bottom] for left, top, right, bottom in (ltrb, gt_ltrb))
    (x0, y0, x1, y1), (u0, v0, u1, v1) = box, gt
    iou = naive.iou(box, gt)
    hull_width, hull_height = max(x1, u1) - min(x0, u0), max(y1, v1) - min(y0, v0)
    union = ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0)) / (1 + iou)
    distance = ((x0 + x1 - u0 - u1) ** 2 + (y0 + y1 - v0 - v1) ** 2) / 4 / (hull_width**2 + hull_height**2)
    v = 4 / math.pi**2 * (math.atan((u1 - u0) / (v1 - v0)) - math.atan((x1 - x0) / (y1 - y0))) ** 2
    return {
        "iou": -math.log(iou),
        "linear_iou": 1 - iou,
        "giou": 1 - iou + (hull_width * hull_height - union) / (hull_width * hull_height),
        "diou": 1 - iou + distance,
        "ciou": 1 - iou + distance + v * v / (1 - iou + v),
    }[name]


def naive_losses(
    predictions, targets, alpha=0.25, gamma=2.0, box_loss="giou", weight_by="centerness", predicts_iou=False
):
    """Equation 2 with focal loss, box loss and binary cross entropy, location by location."""
    cls = loc = ctr = 0.0
    weight_sum = num_positives = 0.0
    labels = targets.labels.flatten().tolist()
    positive = iter(targets.ltrb.tolist())
    for r, label in enumerate(labels):
        for c in range(NUM_CLASSES):
            p = naive.sigmoid(predictions.logits.flatten(0, 1)[r, c].item())
            if c == label:
                cls += -alpha * (1 - p) ** gamma * math.log(p)
            else:
                cls += -(1 - alpha) * p**gamma * math.log(1 - p)
        if label == NUM_CLASSES:
            continue
        left, top, right, bottom = gt_ltrb = next(positive)
        centerness = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
        weight = centerness if weight_by == "centerness" and not predicts_iou else 1.0
        ltrb = predictions.ltrb.flatten(0, 1)[r].tolist()
        loc += weight * naive_box_loss(box_loss, ltrb, gt_ltrb)
        wanted = 1 - naive_box_loss("linear_iou", ltrb, gt_ltrb) if predicts_iou else centerness
        if predictions.centerness is not None:
            q = naive.sigmoid(predictions.centerness.flatten()[r].item())
            ctr += -wanted * math.log(q) - (1 - wanted) * math.log(1 - q)
        weight_sum += weight
        num_positives += 1
    found = {"cls": cls / max(num_positives, 1), "loc": loc / max(weight_sum, 1), "ctr": ctr / max(num_positives, 1)}
    if predictions.centerness is None:
        del found["ctr"]
    return found


MIXED = batch([[0, 3, 1, 3], [3, 2, 2, 3]], [[1, 1, 1, 1], [1, 2, 3, 4], [0.5, 1, 2, 1], [2, 2, 2, 1]])
SINGLE = batch([[3, 3, 1, 3]], [[1, 2, 3, 4]])  # its centerness, √(1/3 · 2/4) = .41, is below 1: the clamp counts
NOTHING = batch([[3, 3], [3, 3]], [])


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
@pytest.mark.parametrize("weight_by", ["centerness", "none"])
@pytest.mark.parametrize("has_branch", [True, False])
@pytest.mark.parametrize(("predictions", "targets"), [MIXED, SINGLE, NOTHING])
def test_equal_the_naive_oracle(predictions, targets, has_branch, box_loss, weight_by):
    if not has_branch:
        predictions = predictions._replace(centerness=None)
    found = FCOSLosses(box_loss=box_loss, box_loss_weight_by=weight_by)(predictions, targets)
    expected = naive_losses(predictions, targets, box_loss=box_loss, weight_by=weight_by)
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("predictions", "targets"), [MIXED, SINGLE, NOTHING])
def test_the_branch_may_learn_the_iou_instead(predictions, targets):
    """Of the predicted box, to which no gradient goes from there; the box loss then has no weights."""
    found = FCOSLosses(predicts_iou=True)(predictions, targets)
    expected = naive_losses(predictions, targets, predicts_iou=True)
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(found["ctr"], predictions.ltrb, allow_unused=True, retain_graph=True)
    assert gradient is None


@pytest.mark.parametrize(
    ("box_loss", "library"),
    [("giou", generalized_box_iou_loss), ("diou", distance_box_iou_loss), ("ciou", complete_box_iou_loss)],
)
def test_value_and_gradient_are_those_of_torchvision(box_loss, library):
    generator = torch.Generator().manual_seed(0)
    ours, gt = (torch.rand(50, 4, generator=generator, dtype=torch.float64) * 5 + 0.1 for _ in range(2))
    theirs, toward_sides = ours.clone(), torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64)
    found = BOX_LOSSES[box_loss](ours.requires_grad_(), gt)
    expected = library(theirs.requires_grad_() * toward_sides, gt * toward_sides)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("predicts_iou", [False, True])
@pytest.mark.parametrize("box_loss", BOX_LOSSES)
@pytest.mark.parametrize("gt_ltrb", [[1e-4] * 4, [1e5] * 4, [1e-4, 1e5, 1e5, 1e-4]])
@pytest.mark.parametrize("ltrb", [[0.0] * 4, [1e-6, 0, 0, 1], [1e5] * 4])
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extremes_stay_finite_and_differentiable(logit, ltrb, gt_ltrb, box_loss, predicts_iou):
    predictions, targets = batch([[0, 3]], [gt_ltrb])
    with torch.no_grad():
        predictions.ltrb.copy_(torch.tensor(ltrb))  # a ReLU may predict boxes without size
        predictions.logits.fill_(logit)
        predictions.centerness.fill_(logit)
    losses = FCOSLosses(box_loss=box_loss, predicts_iou=predicts_iou)(predictions, targets)
    for value in (*losses.values(), *torch.autograd.grad(sum(losses.values()), list(predictions))):
        assert torch.isfinite(value).all()


def test_weights_and_focal_parameters():
    predictions, targets = MIXED
    plain = FCOSLosses()(predictions, targets)
    weighted = FCOSLosses(cls_weight=2.0, loc_weight=3.0, ctr_weight=0.5)(predictions, targets)
    for name, factor in (("cls", 2.0), ("loc", 3.0), ("ctr", 0.5)):
        assert weighted[name].item() == pytest.approx(factor * plain[name].item())
    other = FCOSLosses(focal_loss_alpha=0.5, focal_loss_gamma=1.0)(predictions, targets)
    assert other["cls"].item() == pytest.approx(naive_losses(predictions, targets, 0.5, 1.0)["cls"], rel=1e-5)


def test_half_precision_is_computed_in_float32():
    predictions, targets = MIXED
    half = FCOSPredictions(*(prediction.detach().bfloat16() for prediction in predictions))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = FCOSLosses()(half, targets)
    expected = naive_losses(half, targets)
    for name, loss in found.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name], rel=1e-4), name
