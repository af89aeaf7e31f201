import pytest
import torch
from detectron2.utils.events import EventStorage

from dev.benchmark import losses
from dev.benchmark.assignment import our_assignment
from dev.benchmark.inputs import FCOS_STRIDES, ground_truth, locations_of

CPU = torch.device("cpu")
SIZE = (96, 128)


def test_peers_lose_what_we_lose():
    """torchvision divides by the positives, as we do; detectron2 by their moving average, .9 · 300 + .1 · positives.
    The box loss is left out, since ours is weighted with the centerness."""
    locations = locations_of(SIZE, FCOS_STRIDES, CPU)
    gt = ground_truth(2, SIZE, num_boxes=5, num_classes=80, device=CPU)
    targets = our_assignment(locations, gt, radius=1.5)()
    levels = losses.random_predictions(locations, 2, num_classes=80)
    ours = losses.our_losses(levels, targets)()
    torchvision = losses.torchvision_losses(levels, targets, locations, gt)()
    with EventStorage():
        detectron2 = losses.detectron2_losses(levels, targets, locations, gt)()
    positives = len(targets.positives)
    assert positives > 5
    normalizer = 0.9 * 300 + 0.1 * positives
    for name, theirs, divided in (("cls", "classification", "loss_fcos_cls"), ("ctr", "bbox_ctrness", "loss_fcos_ctr")):
        torch.testing.assert_close(torchvision[theirs], ours[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(detectron2[divided] * normalizer / positives, ours[name], rtol=1e-4, atol=1e-6)
    box_loss = detectron2["loss_fcos_loc"].item() * normalizer / positives
    assert torchvision["bbox_regression"].item() == pytest.approx(box_loss, rel=1e-4)
