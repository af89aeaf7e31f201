"""Check that memory does not grow, in training and in evaluation, and that the death of a loader worker ends a training
with one message.

Everything is tools/train_net.py on the CPU, in a process of its own, with a tiny Faster R-CNN with FCOSRPN on generated
pictures. The resident memory of the process and of its loader workers is read from /proc (Linux). A line is fitted to
the samples between the first third, the warm-up, and the last entry of the log; its slope is the growth. In the end a
training is resumed and one of its workers is killed. Writes memory.json and the logs to --output. Ends with status 1 if
memory grows by more than --most or --most-of-evaluation, or the message does not come.

Examples:
    python -m dev.reliability.check_memory --minutes 15 --images 2000 --output output/check_memory
    python -m dev.reliability.check_memory --minutes 60 --images 0 --workers 4
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from dev.reliability.tiny_training import CONFIG, OVERRIDES, add_common_arguments, command_of, make_new_folder, started
from fcos_rpn import UserError
from fcos_rpn.errors import user_errors_as_messages
from tests.tiny import write_coco_folder

ENDLESS = {
    **OVERRIDES,
    "SOLVER.STEPS": (),
    "SOLVER.MAX_ITER": 10_000_000,
    "SOLVER.CHECKPOINT_PERIOD": 200,
    "TEST.EVAL_PERIOD": 0,
    "INPUT.MIN_SIZE_TEST": 80,
}
NUM_TRAINING_PICTURES = 60

WARM_UP = 1 / 3
"""Share of the iterations or images in which caches, buffers and momenta are allocated."""

SECONDS_TO_DIE = 120


class Sample(NamedTuple):
    """Memory at a time, in MiB."""

    seconds: float
    """Since the start."""
    done: int
    """Iterations or images so far."""
    main: float
    workers: float
    """All of them together."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch, kill, print and write.

    Returns:
        The process's status: 1 if a check fails.
    """
    args = build_argument_parser().parse_args(arguments)
    if not memory_of(os.getpid()):
        raise UserError("memory is read from RssAnon in /proc/<pid>/status, which this system does not have: use Linux")
    command, output = prepare(args), args.output / "run"
    runs = {"training": watch(command, output, args.workers, args.period, 60 * args.minutes)}
    if args.images:
        evaluation = [*command[:2], "--eval-only", *command[2:]]  # flags stand before the overrides
        runs["evaluation"] = watch(evaluation, output, args.workers, args.period)
    slopes = {name: slope_of(samples) for name, samples in runs.items()}
    message = kill_a_worker(command, output, max(1, args.workers))

    rows = [
        [name, runs[name][-1].done, runs[name][-1].seconds / 60, sum(runs[name][-1][2:]), slope]
        for name, slope in slopes.items()
    ]
    print(tabulate(rows, ["", "iterations, images", "minutes", "MiB at the end", "MiB per 1,000"], floatfmt=".1f"))
    print(f"\nA worker is killed: {message or 'no message, or more than one'}")
    written = {name: {"slope": slopes[name], "samples": samples} for name, samples in runs.items()}
    content = {"message_when_a_worker_is_killed": message, "fields_of_samples": Sample._fields, **written}
    (args.output / "memory.json").write_text(json.dumps(content), encoding="utf-8")
    most = {"training": args.most, "evaluation": args.most_of_evaluation}
    return 1 if not message or any(slope > most[name] for name, slope in slopes.items()) else 0


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, metavar="N", help="of training; default: %(default)s")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="to evaluate on; default: %(default)s")
    parser.add_argument("--period", type=float, default=1.0, metavar="SECONDS", help="of samples; default: %(default)s")
    parser.add_argument(
        "--most",
        type=float,
        default=5.0,
        metavar="MIB",
        help="growth per 1,000 iterations that is no failure; default: %(default)s",
    )
    parser.add_argument(
        "--most-of-evaluation",
        type=float,
        default=30.0,
        metavar="MIB",
        help="growth per 1,000 images; 1000 proposals of each, 20 kB, are kept to the end; default: %(default)s",
    )
    add_common_arguments(parser, output="output/check_memory")
    return parser


def prepare(args: argparse.Namespace) -> list[str]:
    """Make the folder and return the command of a training.

    Raises:
        UserError: if the folder cannot be used.
    """
    make_new_folder(args.output)
    train = write_coco_folder(args.output / "train", num_images=NUM_TRAINING_PICTURES)
    test = write_coco_folder(args.output / "test", num_images=args.images) if args.images else train
    return command_of(CONFIG, "--train", *train, "--test", *test, overrides=ENDLESS)


def watch(
    command: Sequence[str], output: Path, workers: int, period: float, seconds: float = float("inf")
) -> list[Sample]:
    """Measure a process until it ends or, after so many seconds, has written a checkpoint.

    Raises:
        UserError: if it fails.
    """
    samples: list[Sample] = []
    with started(command, output, workers) as training:
        begin, process = time.monotonic(), training.process
        print(f"log: {training.log_file}", flush=True)
        while process.poll() is None:
            passed = time.monotonic() - begin
            if passed >= seconds and (output / "last_checkpoint").exists():
                return samples
            main = memory_of(process.pid)
            if main > 0:  # it may just be ending
                done = images_in(training.log()) if "--eval-only" in command else iterations_in(output)
                samples.append(Sample(passed, done, main, sum(map(memory_of, children_of(process.pid)))))
            time.sleep(period)
        training.require_success()
    return samples


def memory_of(pid: int) -> float:
    """Read a process's memory in MiB, without mapped files such as libraries; 0 if it has ended.

    Pages that processes share count for each of them. If they were divided, a process that writes to pages that it
    shares with its forks, as Python's first full garbage collection does, would look like growth.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return sum(int(kilobytes) for kilobytes in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", text, re.MULTILINE)) / 1024


def children_of(pid: int) -> list[int]:
    """List the processes that a process has forked, such as loader workers, without those that run another program."""
    try:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        own = Path(f"/proc/{pid}/cmdline").read_bytes()
        return [int(child) for child in pids if Path(f"/proc/{child}/cmdline").read_bytes() == own]
    except OSError:  # one of them has just ended
        return []


def iterations_in(output: Path) -> int:
    """Read Detectron2's log of figures."""
    metrics = output / "metrics.json"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return int(json.loads(lines[-1])["iteration"]) + 1 if lines else 0


def images_in(log: str) -> int:
    """Read Detectron2's log of an evaluation."""
    found = re.findall(r"Inference done (\d+)/\d+", log)
    return int(found[-1]) if found else 0


def slope_of(samples: Sequence[Sample]) -> float:
    """Fit a line through the samples between the warm-up and the end; return MiB per 1,000 iterations or images.

    Raises:
        UserError: if there are too few samples.
    """
    last = max((sample.done for sample in samples), default=0)
    steady = [sample for sample in samples if WARM_UP * last <= sample.done < last]
    counts = [sample.done for sample in steady]
    if len(set(counts)) < 3:
        raise UserError("too few samples to measure growth: give more --minutes or --images")
    return 1000 * statistics.linear_regression(counts, [sample.main + sample.workers for sample in steady]).slope


def kill_a_worker(command: Sequence[str], output: Path, workers: int) -> str:
    """Resume the training and kill one of its loader workers.

    Returns:
        The message that the training ends with; empty if there is none, or a traceback.

    Raises:
        UserError: if the training ends before.
    """
    with started(command, output, workers) as training:
        training.wait_for_first_iteration()
        while not (children := children_of(training.process.pid)):
            if training.process.poll() is not None:
                raise UserError(f"{output}: the training has ended before it had a loader worker")
            time.sleep(0.1)
        os.kill(children[0], signal.SIGKILL)
        try:
            status = training.process.wait(SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            return ""
        _, error, message = training.log().rpartition("\nerror: ")
        return message.strip() if status == 1 and error and "Traceback" not in training.log() else ""


if __name__ == "__main__":
    with user_errors_as_messages():
        sys.exit(main())
