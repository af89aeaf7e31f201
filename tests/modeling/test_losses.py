import datetime
import json
import math

import pytest
import torch
from detectron2.utils import comm
from torchvision.ops import generalized_box_iou

from fcos_rpn import FCOSLosses, FCOSPredictions, FCOSTargets, compute_centerness

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
        matched_idxs=torch.where(labels < NUM_CLASSES, 0, -1),
        positives=positives,
        ltrb=torch.tensor(ltrb, dtype=torch.float32).view(-1, 4),
    )
    return predictions, targets


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def naive_losses(predictions, targets, alpha=0.25, gamma=2.0):
    """Equation 2 with focal loss, GIoU loss weighted by centerness, and binary cross entropy, location by location."""
    cls = loc = ctr = 0.0
    centerness_sum = num_positives = 0.0
    labels = targets.labels.flatten().tolist()
    positive = iter(targets.ltrb.tolist())
    for r, label in enumerate(labels):
        for c in range(NUM_CLASSES):
            p = sigmoid(predictions.logits.flatten(0, 1)[r, c].item())
            if c == label:
                cls += -alpha * (1 - p) ** gamma * math.log(p)
            else:
                cls += -(1 - alpha) * p**gamma * math.log(1 - p)
        if label == NUM_CLASSES:
            continue
        left, top, right, bottom = next(positive)
        centerness = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
        pl, pt, pr, pb = predictions.ltrb.flatten(0, 1)[r].tolist()
        predicted, target = torch.tensor([[-pl, -pt, pr, pb]]), torch.tensor([[-left, -top, right, bottom]])
        loc += centerness * (1 - generalized_box_iou(predicted, target).item())
        q = sigmoid(predictions.centerness.flatten()[r].item())
        ctr += -centerness * math.log(q) - (1 - centerness) * math.log(1 - q)
        centerness_sum += centerness
        num_positives += 1
    return {
        "cls": cls / max(num_positives, 1),
        "loc": loc / max(centerness_sum, 1),
        "ctr": ctr / max(num_positives, 1),
    }


MIXED = batch([[0, 3, 1, 3], [3, 2, 2, 3]], [[1, 1, 1, 1], [1, 2, 3, 4], [0.5, 1, 2, 1], [2, 2, 2, 1]])
SINGLE = batch([[3, 3, 1, 3]], [[1, 2, 3, 4]])  # its centerness, √(1/3 · 2/4) = .41, is below 1: the clamp counts
NOTHING = batch([[3, 3], [3, 3]], [])


@pytest.mark.parametrize(("predictions", "targets"), [MIXED, SINGLE, NOTHING])
def test_equal_the_naive_oracle(predictions, targets):
    found = FCOSLosses()(predictions, targets)
    for name, expected in naive_losses(predictions, targets).items():
        assert found[name].item() == pytest.approx(expected, rel=1e-5), name


def test_perfect_boxes_cost_nothing():
    predictions, targets = MIXED
    ltrb = torch.zeros(8, 4)
    ltrb[targets.positives] = targets.ltrb
    found = FCOSLosses()(predictions._replace(ltrb=ltrb.view(2, 4, 4)), targets)
    assert found["loc"].item() == pytest.approx(0.0, abs=1e-6)


def test_centerness_cannot_fall_to_zero():
    """The floor that users mistake for a broken branch: the entropy of the soft targets."""
    predictions, targets = MIXED
    gt = compute_centerness(targets.ltrb)
    centerness = torch.zeros(8)
    centerness[targets.positives] = torch.logit(gt.clamp(max=1 - 1e-6))
    found = FCOSLosses()(predictions._replace(centerness=centerness.view(2, 4)), targets)
    entropy = -(gt * gt.log() + (1 - gt) * (1 - gt).clamp(min=1e-12).log()).mean()
    assert found["ctr"].item() == pytest.approx(entropy.item(), abs=1e-4)
    assert found["ctr"].item() > 0.3


def test_weights_and_focal_parameters():
    predictions, targets = MIXED
    plain = FCOSLosses()(predictions, targets)
    weighted = FCOSLosses(cls_weight=2.0, loc_weight=3.0, ctr_weight=0.5)(predictions, targets)
    for name, factor in (("cls", 2.0), ("loc", 3.0), ("ctr", 0.5)):
        assert weighted[name].item() == pytest.approx(factor * plain[name].item())
    other = FCOSLosses(focal_loss_alpha=0.5, focal_loss_gamma=1.0)(predictions, targets)
    assert other["cls"].item() == pytest.approx(naive_losses(predictions, targets, 0.5, 1.0)["cls"], rel=1e-5)


@pytest.mark.parametrize(("predictions", "targets"), [MIXED, NOTHING])
def test_every_prediction_gets_a_gradient(predictions, targets):
    losses = FCOSLosses()(predictions, targets)
    gradients = torch.autograd.grad(sum(losses.values()), list(predictions))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert gradients[0].abs().sum() > 0


def test_half_precision_is_computed_in_float32():
    predictions, targets = MIXED
    half = FCOSPredictions(*(prediction.detach().bfloat16() for prediction in predictions))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = FCOSLosses()(half, targets)
    expected = naive_losses(half, targets)
    for name, loss in found.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name], rel=1e-4), name


def loss_gradient(rank_batches):
    """Gradient of the summed losses with respect to one shared bias, of one process."""
    bias = torch.zeros((), requires_grad=True)
    total = torch.zeros(())
    for predictions, targets in rank_batches:
        shifted = FCOSPredictions(*(prediction.detach() + bias for prediction in predictions))
        total = total + sum(FCOSLosses()(shifted, targets).values())
    total.backward()
    return total.detach(), bias.grad


def concatenate(batches):
    predictions, targets = zip(*batches, strict=True)
    num_before, positives = 0, []
    for target in targets:
        positives.append(target.positives + num_before)
        num_before += target.labels.numel()
    return (
        FCOSPredictions(*(torch.cat([part.detach() for part in parts]) for parts in zip(*predictions, strict=True))),
        FCOSTargets(
            labels=torch.cat([target.labels for target in targets]),
            matched_idxs=torch.cat([target.matched_idxs for target in targets]),
            positives=torch.cat(positives),
            ltrb=torch.cat([target.ltrb for target in targets]),
        ),
    )


def rank_batches():
    """Equal sizes: one rank with positives, one without any."""
    full = batch([[0, 3, 1, 3], [3, 2, 2, 3]], [[1, 1, 1, 1], [1, 2, 3, 4], [0.5, 1, 2, 1], [2, 2, 2, 1]])
    empty = batch([[3, 3, 3, 3], [3, 3, 3, 3]], [], seed=1)
    return [full, empty]


def run_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
    )
    comm.create_local_process_group(2)
    loss, gradient = loss_gradient([rank_batches()[rank]])
    for value in (loss, gradient):  # what DistributedDataParallel does to gradients
        torch.distributed.all_reduce(value)
    (folder / f"{rank}.json").write_text(json.dumps([loss.item() / 2, gradient.item() / 2]))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one(tmp_path):
    torch.multiprocessing.spawn(run_rank, args=(tmp_path,), nprocs=2)
    loss, gradient = loss_gradient([concatenate(rank_batches())])
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx([loss.item(), gradient.item()], rel=1e-5)
