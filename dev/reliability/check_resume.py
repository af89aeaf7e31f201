"""Kill a training on the CPU again and again, resume it, and compare it bit for bit with an undisturbed one.

Every start is tools/train_net.py --resume in a process of its own. About every other kill waits until a file is being
written. A training that ends before all kills are spent is compared, and the next one begins. The undisturbed training
loads its images in its own process, so numbers of workers are compared, too. Without --config-file, a tiny Faster R-CNN
with FCOSRPN learns from generated pictures. A config of your own has to end soon and to write checkpoints often.

Examples:
    python -m dev.reliability.check_resume --kills 20 --workers 2 --output output/check_resume
    python -m dev.reliability.check_resume --config-file configs/custom/fcos_mobilenet_v2.yaml --train IMAGES JSON \\
        SOLVER.MAX_ITER 40 SOLVER.CHECKPOINT_PERIOD 3
"""

import argparse
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor

from dev.reliability.tiny_training import (
    CONFIG,
    OVERRIDES,
    add_common_arguments,
    command_of,
    half_written_in,
    make_new_folder,
    started,
)
from fcos_rpn.errors import user_errors_as_messages
from tests.tiny import write_coco_folder

NUM_PICTURES = 21


class Kill(NamedTuple):
    """The end of one process of a training."""

    started_at: int
    """Iteration that it resumed from."""
    aim: str
    """"any moment" or "while writing"."""
    seconds: float
    """Since its first iteration."""
    half_written: str
    """The file that it was writing, if any."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train undisturbed, kill and compare.

    Returns:
        The process's status: 1 if a training differs.
    """
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
            shutil.rmtree(output)  # one that differs is kept
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
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of training and kills; default: %(default)s")
    parser.add_argument("--config-file", metavar="YAML", help="default: a tiny Faster R-CNN with FCOSRPN")
    parser.add_argument("--train", nargs=2, metavar=("IMAGES", "JSON"), help="default: generated pictures")
    add_common_arguments(parser, output="output/check_resume")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser


def prepare(args: argparse.Namespace) -> list[str]:
    """Make the folder and return the command of a training.

    Raises:
        UserError: if there is no such config, or the folder cannot be used.
    """
    overrides = {} if args.config_file else OVERRIDES
    make_new_folder(args.output)
    train = args.train or write_coco_folder(args.output / "data", num_images=NUM_PICTURES)
    command = command_of(args.config_file or CONFIG, "--train", *train, overrides=overrides)
    return [*command, *args.opts, "SEED", str(args.seed)]


def train_undisturbed(command: Sequence[str], output: Path) -> float:
    """Train once; return the seconds from the first iteration to the end."""
    with started(command, output, workers=0) as training:
        training.wait_for_first_iteration()
        begin = time.monotonic()
        training.require_success()
        return time.monotonic() - begin


def kill_and_resume(
    command: Sequence[str], output: Path, workers: int, seconds: float, max_kills: int, chance: random.Random
) -> Iterator[Kill]:
    """Start a training until it has ended, and kill it up to `max_kills` times.

    Args:
        seconds: that an undisturbed training takes; a kill comes at most so long after the first iteration.
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
    """Name the tensors of two checkpoints, weights and momenta, whose bits differ."""
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
    """Yield the tensors in nested dicts and lists by their path."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from flatten(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        yield from flatten(dict(enumerate(content)), name)


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """Make tensors comparable: nan equals itself, and 0 is not -0."""
    return tensor.dtype, tensor.shape, tensor.contiguous().numpy().tobytes()


if __name__ == "__main__":
    with user_errors_as_messages():
        sys.exit(main())
