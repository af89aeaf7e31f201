"""A comparison of systems on a tiny data set."""

import argparse

import pytest
import torch
import torchvision

from dev.experiment.system import Experiment, System, add_experiment_arguments
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
    """An experiment with the given systems and arguments; its output is `output` in the test's folder."""

    def make(*, systems=None, summarize=lambda found, cfg: found["box_proposals"], **arguments) -> Experiment:
        parser = argparse.ArgumentParser()
        add_experiment_arguments(parser, output=str(tmp_path / "output"))
        args = parser.parse_args(["--iterations", "8", "--short-side", "64", "--rates", "0.001"])
        args.train = args.test = [data["images"], data["json"]]
        args.weights = data["weights"]
        vars(args).update(arguments)
        return Experiment(
            args=args,
            systems=systems or {name: System(name, f"{name}.yaml") for name in ("rpn_gn", "fcos_rpn")},
            criterion=("box_proposals", "AR@100"),
            followed=("AR@100",),
            summarize=summarize,
        )

    return make
