"""Focal loss over many entries of which few are positive (Lin et al. 2017, equation 5).

A location has C entries, of which at most one is positive, and nearly all locations have none. All entries are first
treated as background, in a few passes that also compute the gradient, and then the few positive ones are corrected.
Autograd would keep a dozen tensors of the logits' size, a one-hot target among them; this keeps only the gradient.

The head's logits are stored class by class, not location by location. They are processed in that order: copying them
and their gradient into another order takes longer than some of the passes.

Shapes: N images, R locations, C classes, P positives.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_EXPONENT = 80.0
"""exp(80) is a float32, exp(89) is not."""

CPU_CHUNK = 1 << 16
"""Entries processed together: their intermediate results fit into a core's cache."""


def focal_loss(
    logits: Tensor, positives: Tensor, classes: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sum the sigmoid focal loss over all entries.

    Args:
        logits: (N, R, C); half precision is computed in float32.
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
            of_chunk = gradient[chunk] if gradient is not None else None
            sums.append(_background_loss(entries[chunk].to(dtype), gamma, of_chunk, weight=1 - alpha))
        background = torch.stack(sums).sum() if sums else entries.new_zeros((), dtype=dtype)

        positive_logits = entries[where].to(dtype)
        positive_gradient = torch.empty_like(positive_logits)
        wrong = _background_loss(positive_logits, gamma)
        # σ(-x) = 1 - σ(x): a positive entry is a background entry with the opposite logit.
        right = _background_loss(-positive_logits, gamma, positive_gradient, weight=-alpha)
        if gradient is not None:
            gradient[where] = positive_gradient.to(gradient)
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


def _background_loss(logits: Tensor, gamma: float, gradient: Tensor | None = None, *, weight: float = 1.0) -> Tensor:
    """Sum pᵞ·ς over background entries, where p is the sigmoid of a logit x and ς = -log(1 - p) its softplus.

    Args:
        gradient: receives d/dx pᵞ·ς = pᵞ·(γ·(1 - p)·ς + p), multiplied by the weight.
    """
    # One exponential gives both: torch's softplus takes longer than all that follows. Up to MAX_EXPONENT nothing
    # overflows, and above it the softplus is the logit.
    odds = logits.clamp(max=MAX_EXPONENT).exp_()  # p / (1 - p)
    p = odds / (1 + odds)
    cross_entropy = torch.maximum(odds.log1p_(), logits)
    factor = p * p if gamma == 2 else p**gamma
    loss = (factor * cross_entropy).sum()  # pairwise, which a dot product is not: its error grows with the length
    if gradient is not None:
        of_factor = torch.addcmul(cross_entropy, p, cross_entropy, value=-1)  # (1 - p)·ς
        of_factor.mul_(weight * gamma).add_(p, alpha=weight)
        torch.mul(of_factor, factor, out=gradient)
    return loss
