"""A training of seconds on generated pictures, in a process of its own: what the checks of reliability start."""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

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
"""Six epochs of the generated pictures, with all that a resumed training has to restore: statistics of batch
normalization, momenta, warm-up and steps of the rate, batches of two shapes, sizes and mirroring, sampled proposals."""

NUM_PICTURES = 21
PICTURE_SIZES = ((96, 64), (64, 96), (80, 80))
"""Width and height, in turn."""


def add_output_argument(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path(default), metavar="FOLDER", help="a new folder; default: %(default)s"
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


def write_pictures(folder: Path, num_pictures: int = NUM_PICTURES) -> tuple[str, str]:
    """Draw a square and a bar on noise, in wide, tall and square pictures.

    Returns:
        The folder of the pictures and the json.
    """
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True)
    for image_id in range(1, num_pictures + 1):
        width, height = PICTURE_SIZES[image_id % len(PICTURE_SIZES)]
        picture = Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8))
        for category_id, box_height in ((1, 24), (2, 12)):
            x, y = int(rng.integers(width - 24)), int(rng.integers(height - box_height))
            ImageDraw.Draw(picture).rectangle((x, y, x + 23, y + box_height - 1), fill=("red", "blue")[category_id - 1])
            box = {"bbox": [x, y, 24, box_height], "area": 24 * box_height, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id, **box})
        picture.save(folder / "images" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height})
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "bar"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return str(folder / "images"), str(folder / "instances.json")


class Training:
    """A running process."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path, skip: int) -> None:
        """
        Args:
            process: leads a group of its own, its workers included.
            output: its folder.
            skip: bytes of its log that earlier processes wrote.
        """
        self.process = process
        self.output = output
        self.skip = skip

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
        return log_of(self.output).read_bytes()[self.skip :].decode(errors="replace")

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
    log = log_of(output)
    skip = log.stat().st_size if log.exists() else 0
    settings = ("DATALOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", str(output))
    with log.open("ab") as file:
        process = subprocess.Popen([*command, *settings], stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    training = Training(process, output, skip)
    try:
        yield training
    finally:
        training.kill()


def log_of(output: Path) -> Path:
    return output.with_suffix(".log")


def half_written_in(output: Path) -> str:
    """Name a file that is being written, if any."""
    return next((path.name for path in output.glob("*.partial")), "")
