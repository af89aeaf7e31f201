import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fcos_rpn import FCOSAssigner, FCOSLosses, FCOSPredictions, compute_locations
from fcos_rpn.modeling.losses import BOX_LOSSES

STRIDES = [8, 128]
LOCATIONS = compute_locations([(2, 3), (1, 1)], STRIDES)
NUM_LOCATIONS, NUM_CLASSES = 7, 2

# Any box: of a hair's breadth around a location, as large as a map of the world, inside out, far away.
coordinates = st.sampled_from([0.0, 4.0, 12.0, 64.0, 24.0]) | st.floats(-1e6, 1e6, width=32)
near_a_location = st.builds(
    lambda x, y, w, h: (x - w, y - h, x + h, y + w),
    *[st.sampled_from([4.0, 12.0, 64.0])] * 2,
    *[st.floats(0, 1, width=32) | st.floats(0, 1e6, width=32)] * 2,
)
boxes = near_a_location | st.tuples(coordinates, coordinates, coordinates, coordinates)
distances = st.sampled_from([0.0, 1.0]) | st.floats(0, 1e6, width=32)
logits = st.floats(-1e4, 1e4, width=32)


def tensors(*shape, elements):
    return arrays(np.float32, (1, NUM_LOCATIONS, *shape), elements=elements).map(
        lambda array: torch.from_numpy(array).requires_grad_()
    )


predictions = st.builds(
    FCOSPredictions,
    logits=tensors(NUM_CLASSES, elements=logits),
    ltrb=tensors(4, elements=distances),
    centerness=tensors(elements=logits),
)


@pytest.mark.parametrize("predicts_iou", [False, True])
@pytest.mark.parametrize("box_loss", BOX_LOSSES)
@settings(max_examples=15)
@given(predictions, st.lists(boxes, max_size=5), st.sampled_from([0.0, 1.5]))
def test_losses_of_any_boxes_are_finite_and_differentiable(box_loss, predicts_iou, found, gt_boxes, radius):
    gt = Instances(
        (16, 24),
        gt_boxes=Boxes(torch.tensor(gt_boxes, dtype=torch.float32).view(-1, 4)),
        gt_classes=torch.zeros(len(gt_boxes), dtype=torch.int64),
    )
    assigner = FCOSAssigner(num_classes=NUM_CLASSES, sizes_of_interest=[64.0], center_sampling_radius=radius)
    losses = FCOSLosses(box_loss=box_loss, predicts_iou=predicts_iou)(found, assigner(LOCATIONS, [gt]))
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss), name
        assert loss >= -1e-5, name
    for gradient in torch.autograd.grad(sum(losses.values()), list(found)):
        assert torch.isfinite(gradient).all()
