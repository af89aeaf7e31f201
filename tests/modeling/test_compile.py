"""What `torch.compile` makes one graph of. Without code generation: that is the same graph, and takes minutes."""

import pytest
import torch
from detectron2.layers import ShapeSpec

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
