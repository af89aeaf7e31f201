"""A comparison of systems on a tiny data set."""

import pytest
import torch
import torchvision

from dev.experiment.system import Experiment, System
from tests.tiny import write_coco_folder


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, str]:
    """A data set, and weights of a backbone: `images`, `json` and `weights`."""
    folder = tmp_path_factory.mktemp("experiment")
    images, json_file = write_coco_folder(folder / "data", num_images=10)
    weights = folder / "mobilenet_v2.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None).features.state_dict(prefix="features."), weights)
    return {"images": images, "json": json_file, "weights": str(weights)}


@pytest.fixture
def arguments(data, tmp_path) -> list[str]:
    """The command line of the shortest comparison; its output is `output` in the test's folder."""
    folder = [data["images"], data["json"]]
    budget = ["--seeds", "1", "--iterations", "4", "--rates", "0.001", "--short-side", "64"]
    given = ["--train", *folder, "--test", *folder, "--weights", data["weights"]]
    return [*given, *budget, "--output", str(tmp_path / "output")]


@pytest.fixture
def make_experiment(tmp_path, data):
    """An experiment with the given fields; its output is the test's folder."""

    def make(**fields) -> Experiment:
        defaults = {
            "systems": {
                "rpn_gn": System("anchor RPN, GN", "rpn_gn.yaml"),
                "fcos_rpn": System("FCOSRPN", "fcos_rpn.yaml"),
            },
            "train": [data["images"], data["json"]],
            "test": [data["images"], data["json"]],
            "weights": data["weights"],
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
