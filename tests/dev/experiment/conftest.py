"""A comparison of systems on a tiny data set."""

import pytest
import torch
import torchvision

from dev.experiment import Experiment, System
from tests.tiny import write_coco_folder


@pytest.fixture
def make_experiment(tmp_path):
    """An experiment with the given fields; its output is the test's folder."""
    images, annotations = write_coco_folder(tmp_path / "data", num_images=10)
    weights = tmp_path / "mobilenet_v2.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None).features.state_dict(prefix="features."), weights)

    def make(**fields) -> Experiment:
        defaults = {
            "systems": {
                "rpn_gn": System("anchor RPN, GN", "rpn_gn.yaml"),
                "fcos_rpn": System("FCOSRPN", "fcos_rpn.yaml"),
            },
            "train": [images, annotations],
            "test": [images, annotations],
            "weights": str(weights),
            "iterations": 8,
            "batch": 8,
            "short_side": 64,
            "rates": [0.001],
            "output": tmp_path / "output",
            "criterion": ("box_proposals", "AR@100"),
            "followed": ("AR@100",),
            "evaluations": 6,
            "fold_part": 4,
            "summarize": lambda found, cfg: found["box_proposals"],
        }
        return Experiment(**{**defaults, **fields})

    return make
