"""Losses and gradients of several processes are those of one with the whole batch."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import launch
from detectron2.engine.defaults import create_ddp_model
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from tests.processes import TIMEOUT, torchrun
from tests.tiny import tiny_batch, tiny_config

ARCHITECTURES = ("FCOS", "ProposalNetwork")  # the latter trains FCOSRPN, whose losses draw no random numbers

SIZE = (64, 64)
UNLEARNABLE = Boxes(torch.tensor([[5.0, 5.0, 6.0, 6.0]]))
"""Between the locations of all levels, which lie at 4 and 12 pixels, at 8, and so on."""

BOXES: dict[str, list[int | Boxes]] = {
    "everywhere": [3, 1, 2, 2, 1, 4],
    "first half and first third without boxes": [0, 0, 0, 1, 2, 3],
    "last half and last third without positives": [3, 1, 2, UNLEARNABLE, UNLEARNABLE, UNLEARNABLE],
    "no positives": [UNLEARNABLE] * 6,
    "no boxes": [0] * 6,
}
"""Of six images, which two or three processes share."""


def batch(boxes: list[int | Boxes]) -> list[dict[str, Any]]:
    inputs = tiny_batch([SIZE] * len(boxes), [0 if isinstance(n, Boxes) else n for n in boxes])
    for x, given in zip(inputs, boxes, strict=True):
        if isinstance(given, Boxes):
            x["instances"] = Instances(SIZE, gt_boxes=given, gt_classes=torch.zeros(1, dtype=torch.int64))
    return inputs


def losses_and_gradients(architecture: str, boxes: list[int | Boxes]) -> dict[str, torch.Tensor]:
    """Of this process' share, by name."""
    torch.manual_seed(0)
    cfg = tiny_config(architecture)
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]  # P2, which nothing trains, would keep DDP waiting
    model = build_model(cfg).train()
    parallel = create_ddp_model(model, broadcast_buffers=False, device_ids=None)
    share = len(boxes) // comm.get_world_size()
    losses = parallel(batch(boxes)[comm.get_rank() * share : (comm.get_rank() + 1) * share])
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {**{name: loss.detach() for name, loss in losses.items()}, **gradients}


def all_losses_and_gradients(architecture: str) -> dict[str, dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    return {kind: losses_and_gradients(architecture, boxes) for kind, boxes in BOXES.items()}


def of_one_rank(folder: Path) -> None:
    for architecture in ARCHITECTURES:
        torch.save(all_losses_and_gradients(architecture), folder / f"{architecture}_{comm.get_rank()}.pth")


def of_one_rank_of_torchrun(folder: Path) -> None:
    torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    comm.create_local_process_group(torch.distributed.get_world_size())
    of_one_rank(folder)
    torch.distributed.destroy_process_group()


def start(launcher: str, num_processes: int, folder: Path) -> None:
    if launcher == "torchrun":
        torchrun(of_one_rank_of_torchrun, folder, num_processes=num_processes)
    else:
        launch(of_one_rank, num_processes, dist_url="auto", args=(folder,), timeout=TIMEOUT)


alone = functools.cache(all_losses_and_gradients)


@pytest.mark.parametrize(("launcher", "num_processes"), [("detectron2", 2), ("torchrun", 3)])
def test_losses_and_gradients_are_those_of_one_process(forked, tmp_path, launcher, num_processes):
    start(launcher, num_processes, tmp_path)
    for architecture in ARCHITECTURES:
        ranks = [torch.load(tmp_path / f"{architecture}_{rank}.pth") for rank in range(num_processes)]
        for kind, expected in alone(architecture).items():
            assert all(rank[kind].keys() == expected.keys() for rank in ranks)
            for name, whole in expected.items():
                found = [rank[kind][name] for rank in ranks]
                if name.startswith("loss_"):  # every process has its share of it
                    torch.testing.assert_close(torch.stack(found).mean(), whole, rtol=1e-5, atol=1e-5)
                    continue
                tolerance = 1e-5 * max(1.0, whole.abs().max().item())
                for gradient in found:
                    torch.testing.assert_close(gradient, whole, rtol=0, atol=tolerance, msg=f"{kind}: {name}")
