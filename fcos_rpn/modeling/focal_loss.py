"""Focal loss over very many entries of which very few are positive (Lin et al. 2017, equation 5).

A location has C entries, of which at most one is positive, and nearly all locations have none. So every entry is first
taken for background, in a few passes that leave its gradient behind, and then the few positive ones are set right.
Autograd would keep a dozen tensors of the logits' size, a one-hot target among them; this keeps the gradient alone.

The head's logits lie in memory class by class, not location by location; they are worked on as they lie, since to copy
them into another order and their gradient back takes longer than some of the passes.

Shapes: N images, R locations, C classes, P positives.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_EXPONENT = 80.0
"""exp(80) is a float32, exp(89) is not."""

CPU_CHUNK = 1 << 16
"""Entries that are worked on together: the intermediate results of so many stay in a core's cache."""


def focal_loss(
    logits: Tensor, positives: Tensor, classes: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """The sum of the sigmoid focal loss over all entries.

    Args:
        logits: (N, R, C); those of half precision are worked on in float32.
        positives: (P,) int64 in [0, N·R), the locations that have a class, each once.
        classes: (P,) int64 in [0, C), theirs.
        alpha: weight of the positive entries; the others have 1 - alpha.
        gamma: exponent of the modulating factor.

    Returns:
        (), differentiable once, with respect to the logits.
    """
    loss: Tensor = _FocalLoss.apply(logits, positives, classes, alpha, gamma)
    return loss


class _FocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, positives: Tensor, classes: Tensor, alpha: float, gamma: float) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        _, num_locations, num_classes = logits.shape
        if is_class_major := logits.transpose(1, 2).is_contiguous():
            images = positives // num_locations
            where = (images * num_classes + classes) * num_locations + positives % num_locations  # (P,)
            entries = logits.transpose(1, 2).flatten()  # (N·C·R,)
        else:
            where = positives * num_classes + classes
            entries = logits.flatten()  # (N·R·C,)
        gradient = torch.empty_like(entries) if needs_gradient else None
        chunk_size = CPU_CHUNK if entries.device.type == "cpu" else max(1, len(entries))
        sums = []
        for start in range(0, len(entries), chunk_size):
            chunk = slice(start, start + chunk_size)
            chunk_sum, chunk_gradient = _loss_and_gradient(entries[chunk].to(dtype), gamma, needs_gradient)
            sums.append(chunk_sum)
            if gradient is not None:
                torch.mul(chunk_gradient, 1 - alpha, out=gradient[chunk])
        background = torch.stack(sums).sum() if sums else entries.new_zeros((), dtype=dtype)

        positive_logits = entries[where].to(dtype)
        wrong, _ = _loss_and_gradient(positive_logits, gamma, False)
        # σ(-x) = 1 - σ(x): a positive entry is a background entry seen from the other side.
        right, positive_gradient = _loss_and_gradient(-positive_logits, gamma, needs_gradient)
        if gradient is not None:
            gradient[where] = (-alpha * positive_gradient).to(gradient)
            shape = logits.transpose(1, 2).shape if is_class_major else logits.shape
            ctx.is_class_major = is_class_major
            ctx.save_for_backward(gradient.view(shape))
        return alpha * right + (1 - alpha) * (background - wrong)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        of_logits = gradient * grad_output
        return of_logits.transpose(1, 2) if ctx.is_class_major else of_logits, None, None, None, None


def _loss_and_gradient(logits: Tensor, gamma: float, needs_gradient: bool) -> tuple[Tensor, Tensor]:
    """Σ pᵞ·ς and d/dx pᵞ·ς = pᵞ·(γ·(1 - p)·ς + p) of background entries, without α, where p is the sigmoid of a logit x
    and ς = -log(1 - p) its softplus.

    Returns:
        () and, if needed, the shape of the logits; else the second is empty.
    """
    # Both from one exponential, since torch's softplus takes longer than all that follows. Up to MAX_EXPONENT nothing
    # overflows, and above it the softplus is the logit.
    odds = logits.clamp(max=MAX_EXPONENT).exp_()  # p / (1 - p)
    p = odds / (1 + odds)
    cross_entropy = torch.maximum(odds.log1p_(), logits)
    factor = p * p if gamma == 2 else p**gamma
    loss = (factor * cross_entropy).sum()  # pairwise, which a dot product is not: its error grows with the length
    if not needs_gradient:
        return loss, loss.new_empty(0)
    gradient = torch.addcmul(cross_entropy, p, cross_entropy, value=-1)  # (1 - p)·ς
    return loss, gradient.mul_(gamma).add_(p).mul_(factor)
