import torch
from torch.nn import functional as F

from fcos_rpn.modeling.deformable import DeformableConv2d


def layer(**overrides):
    torch.manual_seed(0)
    return DeformableConv2d(4, 6, **{"kernel_size": 3, "padding": 1, "bias": False, **overrides})


def test_starts_as_half_of_a_plain_convolution():
    """All shifts are 0, and all weights σ(0) = .5."""
    feature, convolution = torch.randn(2, 4, 7, 9), layer()
    torch.testing.assert_close(convolution(feature), 0.5 * F.conv2d(feature, convolution.weight, padding=1))


def test_taps_look_where_the_offsets_say():
    """Torchvision's order is y before x for each tap: shifting every tap by a column shifts the picture."""
    feature, convolution = torch.randn(1, 4, 7, 9), layer(kernel_size=1, padding=0)
    convolution.offset.bias.data = torch.tensor([0.0, 1.0, 20.0])  # y, x, weight: σ(20) = 1
    expected = F.conv2d(feature[..., 1:], convolution.weight)
    torch.testing.assert_close(convolution(feature)[..., :-1], expected)
