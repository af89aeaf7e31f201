"""A deformable convolution that predicts its own offsets (Deformable ConvNets v2, section 4.2)."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d


class DeformableConv2d(DeformConv2d):
    """torchvision's operator with the layer that predicts the offset and the weight of each tap."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any) -> None:
        """Arguments as in `torch.nn.Conv2d`."""
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        num_taps = kernel_size * kernel_size
        # Shift in y and x and one weight for each tap.
        self.offset = nn.Conv2d(in_channels, 3 * num_taps, kernel_size, stride=self.stride, padding=self.padding)
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Reset to zero offsets and weights of 1/2 for all taps."""
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.get_parameter("offset.bias"))

    def forward(self, feature: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        shifts_and_weights = self.offset(feature)
        num_shifts = shifts_and_weights.shape[1] * 2 // 3
        shifts, weights = shifts_and_weights[:, :num_shifts], shifts_and_weights[:, num_shifts:]
        return super().forward(feature, shifts, torch.sigmoid(weights))
