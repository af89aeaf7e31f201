"""Whole models: inference, training, proposals."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dev.benchmark import inference, measuring, proposals, training
from dev.benchmark.inputs import RPN_STRIDES, locations_of
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


def test_the_floor_is_every_convolution_once_more():
    """Two convolutions, one of which runs on two maps."""
    first, second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 1, groups=2)
    run = inference.convolutions_alone(nn.Sequential(first, nn.ReLU(), second, second), torch.rand(1, 3, 9, 9))
    with FlopCounterMode(display=False) as counter:
        run()
    # Multiplications and additions: 4 x 4 positions, 4 outputs from 27 and from 2 inputs.
    assert counter.get_total_flops() == 2 * 16 * 4 * (27 + 2 + 2)
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


def test_whole_generators_run(monkeypatch):
    monkeypatch.setattr(proposals, "QUICK_SIZE", SIZE)
    selection, whole, smaller = proposals.comparisons(QUICK)
    assert list(selection.cases) == ["fcos_rpn", "rpn"]
    assert list(whole.cases) == ["fcos_rpn", "rpn", "rpn_gn"]
    assert list(smaller.cases) == ["fcos_rpn", *(f"fcos_rpn, {head}" for head in proposals.SMALLER_HEADS), "rpn"]
    for run in [*whole.cases.values(), *smaller.cases.values()]:
        (found,), losses = run()
        assert set(found.get_fields()) == {"proposal_boxes", "objectness_logits"}
        assert losses == {}
