"""A training of seconds on generated pictures, in a process of its own: what the checks of reliability start."""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fcos_rpn import UserError
from fcos_rpn.errors import make_folder
from fcos_rpn.model_zoo import find_config

TRAIN_NET = Path(__file__).parents[2] / "tools" / "train_net.py"

CONFIG = "custom/faster_rcnn_fcos_rpn_mobilenet_v2.yaml"
OVERRIDES: Mapping[str, Any] = {
    "MODEL.TORCHVISION.NAME": "shufflenet_v2_x0_5",
    "MODEL.TORCHVISION.NORM": "BN",
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.FCOS.NUM_CONVS": 1,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 256,
    "INPUT.MIN_SIZE_TRAIN": (64, 80, 96),
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.BASE_LR": 0.005,
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.STEPS": (24,),
    "SOLVER.MAX_ITER": 32,
    "SOLVER.CHECKPOINT_PERIOD": 3,
}
"""Six epochs of 21 pictures, with all that a resumed training has to restore: statistics of batch
normalization, momenta, warm-up and steps of the rate, batches of two shapes, sizes and mirroring, sampled proposals."""


def add_common_arguments(parser: argparse.ArgumentParser, *, output: str) -> None:
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="that load images; default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path(output), metavar="FOLDER", help="a new folder; default: %(default)s"
    )


def make_new_folder(folder: Path) -> None:
    """
    Raises:
        UserError: if there is something in it, or it cannot be made.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--output {folder} is not empty: name a new folder, or remove it")
    make_folder(folder)


def command_of(config: str, *arguments: str, overrides: Mapping[str, Any]) -> list[str]:
    """The command of a training on the CPU, without its number of workers and its folder.

    Raises:
        UserError: if there is no such config.
    """
    return [
        *(sys.executable, str(TRAIN_NET), "--resume", "--num-gpus", "0", "--config-file", str(find_config(config))),
        *arguments,
        *(str(part) for pair in overrides.items() for part in pair),
    ]


class Training:
    """A running process, which leads a group of its own, its workers included."""

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self.output = output
        self.log_file = output.with_suffix(".log")
        with self.log_file.open("ab") as file:
            self.skip = file.tell()  # what earlier processes wrote
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_for_first_iteration(self) -> int:
        """
        Returns:
            Its number.
        """
        while True:
            is_over = self.process.poll() is not None
            if started := re.search(r"Training from iteration (\d+)", self.log()):
                return int(started[1])
            if is_over:
                self.require_success()
                raise UserError(f"{self.output}: the training ended before its first iteration")
            time.sleep(0.02)

    def log(self) -> str:
        return self.log_file.read_bytes()[self.skip :].decode(errors="replace")

    def wait_for_file(self, seconds: float) -> None:
        """Wait until a file is being written, the training has ended, or the seconds are over."""
        end = time.monotonic() + seconds
        while not half_written_in(self.output) and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.0002)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def require_success(self) -> None:
        """
        Raises:
            UserError: if the training failed; with the end of its log.
        """
        if self.process.wait() != 0:
            raise UserError(f"{self.output}: the training failed:\n" + "\n".join(self.log().splitlines()[-5:]))


@contextlib.contextmanager
def started(command: Sequence[str], output: Path, workers: int) -> Iterator[Training]:
    """Start a training, and kill it in the end if it still runs."""
    training = Training([*command, "DATALOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", str(output)], output)
    try:
        yield training
    finally:
        training.kill()


def half_written_in(output: Path) -> str:
    """Name a file that is being written, if any."""
    return next((path.name for path in output.glob("*.partial")), "")
