"""Tracers: `torch.compile` makes one graph of the core, and fvcore counts the operations of a whole model.

The graph is not compiled to code, which would take minutes.
"""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis

from fcos_rpn import FCOSCore
from tests.tiny import tiny_config

PYRAMID = {"p3": ShapeSpec(channels=32, stride=8), "p4": ShapeSpec(channels=32, stride=16)}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def core():
    torch.manual_seed(0)
    return FCOSCore(tiny_config(), PYRAMID, in_features=list(PYRAMID), num_classes=2)


def features(height, width):
    return {name: torch.randn(2, 32, height // level.stride, width // level.stride) for name, level in PYRAMID.items()}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_core_is_one_graph_for_every_size(backend):
    model = core()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for height, width in ((64, 96), (128, 64)):
        given = features(height, width)
        expected, expected_locations = model(given)
        predictions, locations = compiled(given)
        for ours, theirs in zip(predictions, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        assert torch.equal(locations.points, expected_locations.points)
        assert locations.grid_sizes == expected_locations.grid_sizes


@pytest.mark.parametrize("architecture", ["FCOS", "BatchedProposalNetwork"])
def test_fvcore_counts_the_convolutions_of_the_core_in_a_whole_model(architecture):
    model = build_model(tiny_config(architecture)).eval()
    counted = FlopCountAnalysis(model, [{"image": torch.zeros(3, 64, 96)}])
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    path = "core" if architecture == "FCOS" else "proposal_generator.core"
    # 64 inputs of 3 x 3 taps at the 8·12 + 4·6 + 2·3 + 1·2 + 1·1 locations, for 4 distances.
    assert counted.by_module()[f"model.{path}.head.bbox_pred"] == 64 * 9 * 4 * 129
