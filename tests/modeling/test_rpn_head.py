import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead, build_rpn_head
from torch import nn

from fcos_rpn import add_fcos_config

SHAPES = [ShapeSpec(channels=32, stride=stride) for stride in (8, 16)]


def config(norm="GN", conv_dims=(-1, -1, -1, -1)):
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.MODEL.RPN.HEAD_NAME = "NormRPNHead"
    cfg.MODEL.RPN.NORM = norm
    cfg.MODEL.RPN.CONV_DIMS = list(conv_dims)
    return cfg


def test_normalizes_before_the_activation():
    head = build_rpn_head(config(conv_dims=[-1]), SHAPES)
    feature = torch.randn(2, 32, 5, 6)
    expected = torch.relu(head.conv.norm(nn.functional.conv2d(feature, head.conv.weight, head.conv.bias, padding=1)))
    torch.testing.assert_close(head.conv(feature), expected)


@pytest.mark.parametrize("conv_dims", [[-1], [-1, 16]])
def test_without_a_norm_it_is_detectron2s(conv_dims):
    ours = build_rpn_head(config(norm="", conv_dims=conv_dims), SHAPES)
    theirs = StandardRPNHead(config(conv_dims=conv_dims), SHAPES)
    theirs.load_state_dict(ours.state_dict())
    features = [torch.randn(1, 32, 4, 4), torch.randn(1, 32, 2, 2)]
    for one, other in zip(ours(features), theirs(features), strict=True):
        for level, same_level in zip(one, other, strict=True):
            assert torch.equal(level, same_level)
