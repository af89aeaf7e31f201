import torch

from dev.benchmark import assignment
from dev.benchmark.inputs import FCOS_STRIDES, ground_truth, locations_of

CPU = torch.device("cpu")
SIZE = (192, 256)


def test_peers_assign_what_we_assign():
    """Random boxes lie at no end of a range, where theirs differ."""
    locations = locations_of(SIZE, FCOS_STRIDES, CPU)
    gt = ground_truth(2, SIZE, num_boxes=9, num_classes=80, device=CPU)
    for radius in assignment.RADII:
        ours = assignment.our_assignment(locations, gt, radius=radius)()
        labels, _ = assignment.detectron2_assignment(locations, gt, radius=radius)()
        matched_idxs = assignment.torchvision_assignment(locations, gt, radius=radius)()
        assert (ours.labels < 80).sum() > 20
        assert torch.equal(torch.stack(labels), ours.labels)
        assert torch.equal(torch.stack(matched_idxs), ours.matched_idxs)
