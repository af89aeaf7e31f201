import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from fcos_rpn.modeling import focal_loss as focal_loss_module
from fcos_rpn.modeling.focal_loss import focal_loss

POSITIVES, CLASSES = torch.tensor([1, 4]), torch.tensor([2, 0])


def library(logits, positives, classes, *, alpha=0.25, gamma=2.0):
    """The oracle: torchvision's, with one-hot targets."""
    logits = logits.flatten(0, 1)
    targets = torch.zeros_like(logits)
    targets[positives, classes] = 1
    return sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction="sum")


def random_logits(dtype=torch.float64, size=(2, 3, 3)):
    return (torch.randn(*size, generator=torch.Generator().manual_seed(0)) * 4).to(dtype).requires_grad_()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_value_and_gradient_are_the_librarys(alpha, gamma):
    ours, theirs = random_logits(), random_logits()
    found = focal_loss(ours, POSITIVES, CLASSES, alpha=alpha, gamma=gamma)
    expected = library(theirs, POSITIVES, CLASSES, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("is_leaf_class_major", [False, True])
def test_logits_are_worked_on_as_they_lie(is_leaf_class_major):
    """As they come from the head, and copied into the order of the locations: the same values and gradients."""
    leaf = random_logits(size=(2, 4, 3))  # two images, four classes, three locations
    logits = leaf.transpose(1, 2) if is_leaf_class_major else leaf.transpose(1, 2).contiguous()
    found = focal_loss(logits, POSITIVES, CLASSES)
    theirs = random_logits(size=(2, 4, 3))
    expected = library(theirs.transpose(1, 2), POSITIVES, CLASSES)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found.backward()
    expected.backward()
    torch.testing.assert_close(leaf.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    assert found.grad_fn.is_class_major == is_leaf_class_major


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_gradcheck(gamma):
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, POSITIVES, CLASSES, gamma=gamma), random_logits())


def test_chunks_add_up(monkeypatch):
    whole, parts = random_logits(size=(2, 5, 7)), random_logits(size=(2, 5, 7))
    expected = focal_loss(whole, POSITIVES, CLASSES)
    expected.backward()
    monkeypatch.setattr(focal_loss_module, "CPU_CHUNK", 16)  # 70 entries: four chunks and a rest of 6
    found = focal_loss(parts, POSITIVES, CLASSES)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert parts.grad.equal(whole.grad)


def test_many_entries_at_the_prior_sum_up_exactly_enough():
    """A new head: 2 million logits of the prior .01, whose errors would all have the same sign."""
    logits = torch.full((1, 25_000, 80), -math.log(99))
    nothing = torch.empty(0, dtype=torch.int64)
    expected = 25_000 * 80 * 0.75 * 0.01**2 * -math.log(0.99)
    assert focal_loss(logits, nothing, nothing).item() == pytest.approx(expected, rel=1e-6)


def test_extreme_logits():
    logits = torch.tensor([[[-1e4, -100.0, 100.0, 1e4]] * 2], requires_grad=True)
    found = focal_loss(logits, torch.tensor([0]), torch.tensor([0]))
    # Background at 100 and 1e4 costs as much, times 3/4, in both rows; the positive at -1e4 costs 1e4 / 4.
    assert found.item() == pytest.approx(2 * 0.75 * (100 + 1e4) + 0.25 * 1e4)
    found.backward()
    expected = torch.tensor([[[-0.25, 0.0, 0.75, 0.75], [0.0, 0.0, 0.75, 0.75]]])
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_on_in_float32(dtype):
    logits = random_logits(dtype, size=(2, 500, 80))
    found = focal_loss(logits, POSITIVES, CLASSES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, library(logits.detach().float(), POSITIVES, CLASSES))
    found.backward()
    assert logits.grad.dtype == dtype


def test_no_positives_and_no_entries():
    nothing = torch.empty(0, dtype=torch.int64)
    logits = random_logits()
    torch.testing.assert_close(focal_loss(logits, nothing, nothing), library(logits, nothing, nothing))
    empty = torch.empty(1, 0, 3, requires_grad=True)
    loss = focal_loss(empty, nothing, nothing)
    loss.backward()
    assert loss.item() == 0
    assert empty.grad.shape == (1, 0, 3)


def test_the_graph_can_be_walked_twice():
    logits = random_logits()
    loss = focal_loss(logits, POSITIVES, CLASSES)
    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    loss.backward()
    torch.testing.assert_close(logits.grad, 2 * once)
