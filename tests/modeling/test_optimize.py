"""The optimized model against the model that it was."""

import copy
import io

import pytest
import torch
import torchvision
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import fx, nn

from fcos_rpn import UserError
from fcos_rpn.modeling.optimize import optimize_for_inference
from tests.tiny import tiny_batch, tiny_config

SIZES = [(64, 96), (80, 80)]
BACKBONES = ["torchvision", "resnet"]
"""Pairs in a traced graph, and Detectron2's convolutions with a norm of their own."""


def randomize_norms(model):
    """Their statistics are those of no change at first, which would hide a norm that is left out."""
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d | torchvision.ops.FrozenBatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    return model


@pytest.fixture(scope="module", params=BACKBONES)
def original(request):
    torch.manual_seed(0)
    cfg = tiny_config()
    if request.param == "resnet":
        cfg.MODEL.BACKBONE.NAME = "build_p5_p67_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    model = randomize_norms(build_model(cfg)).eval()
    nn.init.zeros_(model.core.head.cls_logits.bias)  # a new model detects nothing
    return model


@pytest.fixture
def model(original):
    return copy.deepcopy(original).eval()  # the copy of a traced graph forgets its mode


def batch():
    return tiny_batch(SIZES, [2, 1])


@torch.no_grad()
def detect(model):
    return [output["instances"] for output in model(batch())]


def assert_same_detections(found, expected, atol=1e-3):
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=0, atol=atol)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
        assert torch.equal(ours.pred_classes, theirs.pred_classes)


def classes(model):
    return {name: type(module) for name, module in model.named_modules()}


def test_detects_the_same_without_norms_and_channels_last(model, original, monkeypatch):
    expected = detect(original)
    assert optimize_for_inference(model) is model

    def fail(*_):
        raise AssertionError("a norm runs")

    monkeypatch.setattr(FrozenBatchNorm2d, "forward", fail)
    assert_same_detections(detect(model), expected)
    with torch.no_grad():
        features = model.backbone(torch.rand(1, 3, 64, 96))
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in features.values())


def test_checkpoints_do_not_show_it(model, original):
    optimize_for_inference(model)
    detect(model)
    expected, state = original.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert all(state[key].stride() == value.stride() for key, value in expected.items())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in original.named_modules()]
    assert [id(p) for p in model.parameters()] == [id(p) for p in optimize_for_inference(model).parameters()]


def test_loaded_weights_take_effect(model, original):
    """Once copied into the parameters, once put in their place."""
    optimize_for_inference(model)
    detect(model)
    for is_put_in_place in (False, True):
        other = randomize_norms(copy.deepcopy(original).eval())
        nn.init.normal_(other.core.head.bbox_pred.weight, std=0.02)
        model.load_state_dict(copy.deepcopy(other.state_dict()), assign=is_put_in_place)
        assert_same_detections(detect(model), detect(other))


def test_training_takes_it_back(model, original):
    before = classes(model)
    optimize_for_inference(model)
    detect(model)
    assert classes(model) != before
    model.train()
    assert classes(model) == before
    assert not any({"partner", "weights"} & vars(module).keys() for module in model.modules())
    losses, expected = model(batch()), copy.deepcopy(original).train()(batch())
    assert {name: loss.item() for name, loss in losses.items()} == {n: loss.item() for n, loss in expected.items()}
    assert_same_detections(detect(model.eval()), detect(original))


def test_training_of_a_part_takes_back_that_part(model, original):
    expected, before = detect(original), classes(model)
    optimize_for_inference(model).backbone.train()
    prepared = {name for name, kind in classes(model).items() if kind is not before[name]}
    assert prepared
    assert all(name.startswith("core.head") for name in prepared)
    assert_same_detections(detect(model), expected)


@pytest.mark.parametrize("kind", [nn.Conv2d, FrozenBatchNorm2d])
def test_either_of_a_pair_goes_back_to_training_alone(kind):
    torch.manual_seed(0)
    pair = randomize_norms(nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8))).eval()
    x = torch.rand(1, 3, 8, 8)
    expected = pair(x)
    optimize_for_inference(pair)
    with torch.no_grad():
        pair(x)
        (part,) = (layer for layer in pair if isinstance(layer, kind))
        part.train()
        torch.testing.assert_close(pair(x), expected)


def test_once_more_changes_nothing(model, original):
    optimize_for_inference(model)
    detect(model)
    once = classes(model)
    assert classes(optimize_for_inference(model)) == once
    assert_same_detections(detect(model), detect(original))


def test_training_mode_is_a_mistake(model):
    with pytest.raises(UserError, match="the model is in training mode; call the model's eval"):
        optimize_for_inference(model.train())
    model.eval().core.train()
    with pytest.raises(UserError, match="the model's core is in training mode"):
        optimize_for_inference(model)


def test_weights_get_their_gradients_in_evaluation_mode(model, original):
    x = torch.rand(1, 3, 64, 64)
    original.zero_grad()
    for features in (original.backbone(x), optimize_for_inference(model).backbone(x)):
        sum(level.square().mean() for level in features.values()).backward()
    expected = {name: p.grad for name, p in original.named_parameters() if p.grad is not None}
    assert expected
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_a_bias_alone_gets_its_gradient_in_evaluation_mode():
    convolution = torch.nn.Conv2d(3, 4, 3).eval()
    convolution.weight.requires_grad_(False)
    optimize_for_inference(convolution)(torch.rand(1, 3, 8, 8)).sum().backward()
    assert convolution.bias.grad.tolist() == [36.0] * 4  # of the 6 x 6 outputs of a channel each counts once


def test_copies_and_other_precisions(model, original):
    expected = detect(original)
    optimize_for_inference(model)
    detect(model)
    model_copy = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # which must not reach the copy
    assert_same_detections(detect(model_copy), expected)
    assert_same_detections(detect(model_copy.double()), expected)
    assert_same_detections(detect(model_copy.float()), expected)


@torch.no_grad()
def test_files():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), Conv2d(8, 4, 1, norm=FrozenBatchNorm2d(4)))
    module = randomize_norms(layers).eval()
    x = torch.rand(1, 3, 8, 8)
    expected = module(x)
    optimize_for_inference(module)(x)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    torch.testing.assert_close(loaded(x), expected)
    torch.testing.assert_close(loaded.train()(x), expected)


def test_first_in_inference_mode_then_with_gradients_of_the_input():
    convolution = nn.Conv2d(3, 4, 3).requires_grad_(False).eval()
    x = torch.rand(1, 3, 6, 6, requires_grad=True)
    expected = convolution(x)
    optimize_for_inference(convolution)
    with torch.inference_mode():
        convolution(x)
    found = convolution(x)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert x.grad is not None


def test_all_that_a_detectron2_convolution_does():
    """A norm that is not frozen, an activation, and a bias that the frozen norm also shifts."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    for norm in (None, nn.BatchNorm2d(8), FrozenBatchNorm2d(8)):
        convolution = randomize_norms(Conv2d(4, 8, 3, stride=2, groups=2, norm=norm, activation=nn.functional.relu))
        with torch.no_grad():
            expected = convolution.eval()(x)
            torch.testing.assert_close(optimize_for_inference(convolution)(x), expected)


class TwiceInARow(nn.Sequential):
    def forward(self, x):
        return super().forward(super().forward(x))


class SeenTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(4, 4, 1), FrozenBatchNorm2d(4)

    def forward(self, x):
        x = self.convolution(x)
        return x + self.norm(x)


class Leaves(fx.Tracer):
    def is_leaf_module(self, module, name):
        return True


def seen_twice():
    module = SeenTwice()
    return fx.GraphModule(module, Leaves().trace(module))


def shared():
    convolution = nn.Conv2d(4, 4, 1)
    return nn.Sequential(convolution, FrozenBatchNorm2d(4), convolution)


def circular():
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), FrozenBatchNorm2d(4))


@pytest.mark.parametrize(
    "build", [seen_twice, shared, circular, lambda: TwiceInARow(nn.Conv2d(4, 4, 1), FrozenBatchNorm2d(4))]
)
def test_norms_stay_where_the_convolution_is_seen_by_others(build):
    torch.manual_seed(0)
    module = randomize_norms(build()).eval()
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = module(x)
        torch.testing.assert_close(optimize_for_inference(module)(x), expected)
    assert any(type(layer) is FrozenBatchNorm2d for layer in module.modules())


@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, torchvision.ops.FrozenBatchNorm2d])
def test_norms_of_both_libraries_are_folded_in_a_sequential(norm):
    torch.manual_seed(0)
    module = randomize_norms(nn.Sequential(nn.Conv2d(4, 4, 1), norm(4), nn.ReLU6(inplace=True))).eval()
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = module(x)
        optimize_for_inference(module)
        assert type(module[1]) is not norm
        torch.testing.assert_close(module(x), expected)
