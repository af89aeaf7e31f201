"""Whole models: inference, training, proposals."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dev.benchmark import inference, measuring, proposals, training
from dev.benchmark.inputs import FCOS_STRIDES, RPN_STRIDES, locations_of
from dev.benchmark.measuring import Setup
from dev.benchmark.peers import anchor_rpn, our_proposal_generator

QUICK = Setup(is_quick=True)
CPU = torch.device("cpu")
SIZE = (64, 96)


def test_inference_compares_models_with_the_floor():
    (found,) = inference.comparisons(QUICK, backbone="mobilenet_v2", size=SIZE, batch_size=2)
    assert found.setting == {"backbone": "mobilenet_v2", "size": "64x96", "batch": 2}
    assert list(found.cases) == ["fcos_rpn", "fcos_rpn, optimized", "detectron2", "torchvision", "retinanet", "floor"]
    outputs = {name: run() for name, run in found.cases.items()}
    plain, optimized = (outputs[name][1]["instances"] for name in ("fcos_rpn", "fcos_rpn, optimized"))
    torch.testing.assert_close(plain.pred_boxes.tensor, optimized.pred_boxes.tensor, rtol=0, atol=1e-3)
    assert not plain.scores.requires_grad


def test_the_floor_is_every_convolution_once_more(monkeypatch):
    """Two convolutions, one of which runs on two maps."""
    first, second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 1, groups=2)
    model = nn.Sequential(first, nn.ReLU(), second, second)
    run = inference.convolutions_alone(model, torch.rand(1, 3, 9, 9))
    calls = []

    def record(x, weight, bias, stride, padding, dilation, groups):
        assert x.is_contiguous(memory_format=torch.channels_last)
        calls.append((tuple(x.shape), tuple(weight.shape), bias is not None, stride, groups))

    monkeypatch.setattr(F, "conv2d", record)
    run()
    one_by_one = ((1, 4, 4, 4), (4, 2, 1, 1), True, (1, 1), 2)
    assert calls == [((1, 3, 9, 9), (4, 3, 3, 3), True, (2, 2), 1), one_by_one, one_by_one]
    assert not first._forward_pre_hooks


def test_training_steps_reach_all_models(monkeypatch):
    monkeypatch.setattr(training, "QUICK_CASES", (("mobilenet_v2", (64, 64), 1),))
    (found,) = training.comparisons(QUICK)
    assert list(found.cases) == ["fcos_rpn", "detectron2", "torchvision", "retinanet"]
    peaks = {name: measuring.peak_of_torch(run, CPU) for name, run in found.cases.items()}
    # At least the gradients of 3 million parameters of backbone and head; and, since they are given back, no less the
    # second time.
    assert all(peak > 12 for peak in peaks.values())
    again = measuring.peak_of_torch(found.cases["fcos_rpn"], CPU)
    assert again == pytest.approx(peaks["fcos_rpn"], rel=0.01)


def test_selections_take_the_best_of_the_same_boxes():
    locations = locations_of(SIZE, RPN_STRIDES, CPU)
    boxes, logits = proposals.boxes_around(locations.points, locations.strides)
    assert (boxes[:, :2] < locations.points).all()
    assert (boxes[:, 2:] > locations.points).all()
    best = boxes[logits.argmax()].clone()
    best[0::2].clamp_(0, SIZE[1])
    best[1::2].clamp_(0, SIZE[0])
    (found,) = proposals.our_selection(our_proposal_generator(CPU), SIZE, CPU)()
    torch.testing.assert_close(found.proposal_boxes.tensor[0], best)
    (peers,) = proposals.rpn_selection(anchor_rpn(CPU), SIZE, CPU)()
    assert 100 < len(found) <= 1000
    assert 100 < len(peers) <= 1000


def test_smaller_heads_have_fewer_convolutions():
    given = {"strides": FCOS_STRIDES}
    generators = [our_proposal_generator(CPU, **given, **convs) for convs in ({}, *proposals.SMALLER_HEADS.values())]
    counts = [
        sum(isinstance(layer, nn.Conv2d) for name, layer in generator.named_modules() if "_tower." in name)
        for generator in generators
    ]
    assert counts == [8, 4, 2, 4, 1]
    assert generators[1].core.in_features == ["p3", "p4", "p5", "p6", "p7"]


def test_whole_generators_run(monkeypatch):
    monkeypatch.setattr(proposals, "QUICK_SIZE", SIZE)
    selection, whole, smaller = proposals.comparisons(QUICK)
    assert list(selection.cases) == ["fcos_rpn", "rpn"]
    assert list(whole.cases) == ["fcos_rpn", "rpn", "rpn_gn"]
    assert list(smaller.cases) == [
        "fcos_rpn",
        "fcos_rpn, towers of 2",
        "fcos_rpn, towers of 1",
        "fcos_rpn, one tower of 4",
        "fcos_rpn, one tower of 1",
        "rpn",
    ]
    for run in [*whole.cases.values(), *smaller.cases.values()]:
        (found,), losses = run()
        assert set(found.get_fields()) == {"proposal_boxes", "objectness_logits"}
        assert losses == {}
