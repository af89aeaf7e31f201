"""Kill a training on the CPU again and again with SIGKILL, resume it, and compare it bit for bit with one that nothing
disturbed.

Every start is tools/train_net.py --resume in a process of its own. About every other kill waits until a file is being
written. A training that ends before all kills are spent is compared, and another one begins. The undisturbed training
loads its images itself, so the comparison is also one between numbers of workers. Without --config-file, a tiny
Faster R-CNN with FCOSRPN learns from a few generated pictures; a config of your own has to end soon, and to write
checkpoints often.

Examples:
    python -m dev.reliability.check_resume --kills 20 --workers 2 --output output/check_resume
    python -m dev.reliability.check_resume --config-file configs/custom/fcos_mobilenet_v2.yaml --train IMAGES JSON \\
        SOLVER.MAX_ITER 40 SOLVER.CHECKPOINT_PERIOD 3
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from tabulate import tabulate
from torch import Tensor

from fcos_rpn import UserError
from fcos_rpn.errors import make_folder, user_errors_as_messages
from fcos_rpn.model_zoo import find_config

TRAIN_NET = Path(__file__).with_name("train_net.py")

TINY_CONFIG = "custom/faster_rcnn_fcos_rpn_mobilenet_v2.yaml"
TINY = {
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
"""Six epochs of the generated pictures, with all that has to go on after a kill: statistics of batch normalization,
momenta, warm-up and steps of the rate, groups of two shapes of images, sizes and mirroring, and sampled proposals."""

NUM_PICTURES = 21
PICTURE_SIZES = ((96, 64), (64, 96), (80, 80))
"""Width and height, in turn."""


class Kill(NamedTuple):
    """How one life of a training ended."""

    started_at: int
    """Iteration that it resumed from."""
    aim: str
    seconds: float
    """Since its first iteration."""
    half_written: str
    """The file that it was writing, if any."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole job, top-down."""
    args = build_argument_parser().parse_args(arguments)
    command = prepare(args)
    chance = random.Random(args.seed)
    undisturbed = args.output / "undisturbed"
    print("an undisturbed training", flush=True)
    seconds = train_undisturbed(command, undisturbed)
    rows: list[dict[str, Any]] = []
    num_different = num_trainings = 0
    while len(rows) < args.kills:
        num_trainings += 1
        output = args.output / f"killed_{num_trainings}"
        for kill in kill_and_resume(command, output, args.workers, seconds, args.kills - len(rows), chance):
            rows.append({"kill": len(rows) + 1, "training": num_trainings, **kill._asdict()})
            print(f"kill {len(rows)} of {args.kills}: {kill}", flush=True)
        differences = differing(undisturbed / "model_final.pth", output / "model_final.pth")
        num_different += bool(differences)
        verdict = f"differs in {', '.join(differences[:5])}" if differences else "identical"
        print(f"training {num_trainings}: {verdict}", flush=True)
        if not differences:
            shutil.rmtree(output)  # else, it is kept to be looked into
    print(f"\n{tabulate(rows, headers='keys', floatfmt='.1f')}\n")
    print(
        f"{len(rows)} kills, {sum(bool(row['half_written']) for row in rows)} of them while a file was being written, "
        f"{args.workers} workers: {num_trainings - num_different} of {num_trainings} trainings end with weights and "
        "momenta bit-identical to the undisturbed one's"
    )
    return 1 if num_different else 0


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of the killed ones; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of training and kills; default: %(default)s")
    parser.add_argument("--config-file", metavar="YAML", help="default: a tiny Faster R-CNN with FCOSRPN")
    parser.add_argument("--train", nargs=2, metavar=("IMAGES", "JSON"), help="default: generated pictures")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/check_resume"),
        metavar="FOLDER",
        help="of all trainings; a new one; default: %(default)s",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser


def prepare(args: argparse.Namespace) -> list[str]:
    """The command of a training, but for its number of workers and its folder.

    Raises:
        UserError: if there is no such config, or the folder cannot be used.
    """
    if args.kills < 1 or args.workers < 0 or args.seed < 0:
        raise UserError("--kills must be at least 1, --workers and --seed at least 0")
    if args.output.exists() and any(args.output.iterdir()):
        raise UserError(f"--output {args.output} is not empty: name a new folder, or remove it")
    config = find_config(args.config_file or TINY_CONFIG)
    make_folder(args.output)
    train = args.train or write_pictures(args.output / "data")
    overrides = [] if args.config_file else [str(part) for pair in TINY.items() for part in pair]
    return [
        *(sys.executable, str(TRAIN_NET), "--resume", "--num-gpus", "0", "--config-file", str(config)),
        *("--train", *train, *overrides, *args.opts, "SEED", str(args.seed)),
    ]


def write_pictures(folder: Path, num_pictures: int = NUM_PICTURES) -> tuple[str, str]:
    """Squares and bars on noise, wide, tall and square pictures of them.

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
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x, y, 24, box_height],
                    "area": 24 * box_height,
                    "iscrowd": 0,
                }
            )
        picture.save(folder / "images" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height})
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "bar"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return str(folder / "images"), str(folder / "instances.json")


class Training:
    """A running process of a training."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path, skip: int) -> None:
        """
        Args:
            process: leads a group of its own, its workers included.
            output: its folder.
            skip: bytes of its log that are of earlier processes.
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
            if started := re.search(r"Starting training from iteration (\d+)", self.log()):
                return int(started[1])
            if is_over:
                self.require_success()
                raise UserError(f"{self.output}: the training ended before its first iteration")
            time.sleep(0.02)

    def log(self) -> str:
        return log_of(self.output).read_bytes()[self.skip :].decode(errors="replace")

    def wait_for_file(self, seconds: float) -> None:
        """Until a file is being written, for so long at most, or to the training's end."""
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
            UserError: if the training failed; with the end of what it said.
        """
        if self.process.wait() != 0:
            raise UserError(f"{self.output}: the training failed:\n" + "\n".join(self.log().splitlines()[-5:]))


@contextlib.contextmanager
def started(command: Sequence[str], output: Path, workers: int) -> Iterator[Training]:
    """Nothing of it is left behind, however this ends."""
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
    return next((path.name for path in output.glob("*.partial")), "")


def train_undisturbed(command: Sequence[str], output: Path) -> float:
    """
    Returns:
        Seconds from the first iteration to the end.
    """
    with started(command, output, workers=0) as training:
        training.wait_for_first_iteration()
        begin = time.monotonic()
        training.require_success()
        return time.monotonic() - begin


def kill_and_resume(
    command: Sequence[str], output: Path, workers: int, seconds: float, max_kills: int, chance: random.Random
) -> Iterator[Kill]:
    """Start a training until it has ended, and meanwhile kill it so often at most.

    Args:
        seconds: that an undisturbed training takes; kills come up to so much later than a start.
    """
    for _ in range(max_kills):
        with started(command, output, workers) as training:
            started_at = training.wait_for_first_iteration()
            begin = time.monotonic()
            delay = chance.uniform(0, seconds)
            is_to_write = chance.random() < 0.5
            with contextlib.suppress(subprocess.TimeoutExpired):
                training.process.wait(delay / 2 if is_to_write else delay)
            if is_to_write:
                training.wait_for_file(seconds)
            training.kill()
            elapsed = time.monotonic() - begin
        if training.process.returncode != -signal.SIGKILL:  # it was faster
            training.require_success()
            return
        yield Kill(started_at, "while writing" if is_to_write else "any moment", elapsed, half_written_in(output))
    with started(command, output, workers) as training:
        training.require_success()


def differing(first: Path, second: Path) -> list[str]:
    """Names of the tensors of two checkpoints, weights and momenta, that are not the same bit for bit."""
    if not second.exists():
        return [f"{second.name}, which is missing"]
    tensors, others = (
        dict(flatten(torch.load(path, map_location="cpu", weights_only=True))) for path in (first, second)
    )
    return sorted(
        name
        for name in tensors.keys() | others.keys()
        if name not in tensors or name not in others or bits(tensors[name]) != bits(others[name])
    )


def flatten(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists, by their way there."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from flatten(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        yield from flatten(dict(enumerate(content)), name)


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """Such that nan equals itself, and 0 is not -0."""
    return tensor.dtype, tensor.shape, tensor.contiguous().numpy().tobytes()


if __name__ == "__main__":
    with user_errors_as_messages():
        sys.exit(main())
