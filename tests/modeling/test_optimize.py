"""The optimized copy detects what the model detects, and the model stays as it is."""

import copy

import pytest
import torch
import torchvision
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import fx, nn

from fcos_rpn.modeling.optimize import FROZEN_NORMS, optimize_for_inference
from tests.tiny import tiny_batch, tiny_config


def randomize_norms(model):
    """Change the statistics of a new norm, which would hide that the norm is left out."""
    for module in model.modules():
        if type(module) in FROZEN_NORMS:
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    return model


def num_norms(model):
    return sum(type(module) in FROZEN_NORMS for module in model.modules())


def random_model(backbone):
    """MobileNetV2 is a traced graph, Detectron2's ResNet has convolutions with a norm, timm's is a plain module."""
    cfg = tiny_config()
    cfg.MODEL.BACKBONE.NAME = f"build_{backbone}_fpn_backbone"
    cfg.MODEL.TORCHVISION.NAME = "mobilenet_v2"
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    torch.manual_seed(0)
    model = randomize_norms(build_model(cfg))
    nn.init.zeros_(model.core.head.cls_logits.bias)  # a new model detects nothing
    return model


@torch.no_grad()
def detect(model):
    return [output["instances"] for output in model(tiny_batch([(64, 96), (80, 80)], [2, 1]))]


@pytest.mark.parametrize(("backbone", "left"), [("torchvision", 0), ("p5_p67_resnet", 0), ("timm", None)])
def test_detects_the_same_and_leaves_the_model_alone(backbone, left):
    model = random_model(backbone)
    modes = [module.training for module in model.modules()]
    state = {key: (value.clone(), value.stride()) for key, value in model.state_dict().items()}
    optimized = optimize_for_inference(model)

    assert [module.training for module in model.modules()] == modes
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key][0])
        assert value.stride() == state[key][1]
    memory = {value.untyped_storage().data_ptr() for value in model.state_dict().values() if value.numel()}
    assert not memory & {value.untyped_storage().data_ptr() for value in optimized.state_dict().values()}
    assert model.core.head.cls_logits.weight.requires_grad

    assert not any(module.training for module in optimized.modules())
    assert num_norms(model) > num_norms(optimized) if left is None else num_norms(optimized) == left
    features = optimized.backbone(torch.rand(1, 3, 64, 96))
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in features.values())
    for ours, theirs in zip(detect(optimized), detect(model.eval()), strict=True):
        assert len(ours) == len(theirs) > 0
        torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
        assert torch.equal(ours.pred_classes, theirs.pred_classes)


def detectron2_convolution(norm, **kwargs):
    return Conv2d(4, 8, 3, stride=2, groups=2, norm=norm, activation=nn.functional.relu, **kwargs)


class SeenTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(4, 4, 1), FrozenBatchNorm2d(4)

    def forward(self, x):
        x = self.convolution(x)
        return x + self.norm(x)


class TwiceInARow(nn.Sequential):
    def forward(self, x):
        return super().forward(super().forward(x))


class Leaves(fx.Tracer):
    def is_leaf_module(self, module, name):
        return True


def shared_convolution():
    convolution = nn.Conv2d(4, 4, 1)
    return nn.Sequential(convolution, FrozenBatchNorm2d(4), convolution)


def shared_norm():
    norm = FrozenBatchNorm2d(4)
    return nn.Sequential(nn.Conv2d(4, 4, 1), norm, nn.Conv2d(4, 4, 1), norm)


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda: detectron2_convolution(None), 0),
        (lambda: detectron2_convolution(nn.BatchNorm2d(8)), 0),
        (lambda: detectron2_convolution(FrozenBatchNorm2d(8)), 0),
        (lambda: detectron2_convolution(FrozenBatchNorm2d(8), bias=False), 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), FrozenBatchNorm2d(4), nn.ReLU6(inplace=True)), 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), torchvision.ops.FrozenBatchNorm2d(4)), 0),
        (lambda: fx.GraphModule(SeenTwice(), Leaves().trace(SeenTwice())), 1),  # the sum needs both outputs
        (lambda: TwiceInARow(nn.Conv2d(4, 4, 1), FrozenBatchNorm2d(4)), 1),
        (shared_convolution, 1),
        (shared_norm, 1),
    ],
)
@torch.no_grad()
def test_norms_are_folded_where_nothing_else_uses_them(build, left):
    torch.manual_seed(0)
    module = randomize_norms(build()).eval()
    x = torch.randn(2, 4, 8, 8)
    optimized = optimize_for_inference(module)
    torch.testing.assert_close(optimized(x), module(x))
    torch.testing.assert_close(copy.deepcopy(optimized)(x), module(x))
    assert num_norms(optimized) == left
