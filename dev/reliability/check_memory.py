"""Check that memory does not grow, in training and in evaluation, and that the death of a loader worker ends a training
with one message.

Everything is tools/train_net.py on the CPU, in a process of its own, with a tiny Faster R-CNN with FCOSRPN on generated
pictures. The resident memory of the process and of its loader workers is read from /proc (Linux). A line is fitted to
the samples between the first third, the warm-up, and the last entry of the log; its slope is the growth. In the end a
training is resumed and one of its workers is killed. Writes memory.json, memory.png and the logs to --output. Ends with
status 1 if memory grows by more than --most or --most-of-evaluation, or the message does not come.

Examples:
    python -m dev.reliability.check_memory --minutes 15 --images 2000 --output output/check_memory
    python -m dev.reliability.check_memory --minutes 60 --images 0 --workers 4
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from dev.reliability import tiny_training
from dev.reliability.tiny_training import Training, add_output_argument, command_of, make_new_folder, started
from fcos_rpn import UserError
from fcos_rpn.errors import user_errors_as_messages

OVERRIDES = {
    **tiny_training.OVERRIDES,
    "SOLVER.STEPS": (),
    "SOLVER.MAX_ITER": 10_000_000,
    "SOLVER.CHECKPOINT_PERIOD": 200,
    "TEST.EVAL_PERIOD": 0,
    "INPUT.MIN_SIZE_TEST": 80,
}
NUM_TRAINING_PICTURES = 60

WARM_UP = 1 / 3
"""Share of the iterations or images in which caches, buffers and momenta are allocated."""

SECONDS_TO_START, SECONDS_TO_DIE = 600, 120

SECONDS_TO_KILL = 2.0
"""From a training's first iteration to the kill of a worker."""


class Sample(NamedTuple):
    """Memory at a time, in MiB."""

    seconds: float
    """Since the first."""
    done: int
    """Iterations or images so far."""
    main: float
    workers: float
    """All of them together."""


class Growth(NamedTuple):
    """A straight line through the samples between the warm-up and the end."""

    slope: float
    """MiB per 1,000 iterations or images."""
    start: float
    """MiB at 0 of them, from the line."""
    first: int
    """Iterations or images where the line begins."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch, kill, print and write.

    Returns:
        The process's status: 1 if a check fails.
    """
    args = build_argument_parser().parse_args(arguments)
    command = prepare(args)
    runs: dict[str, list[Sample]] = {}
    if args.minutes > 0:
        runs["training"] = watch_training(command, args)
    if args.images > 0:
        runs["evaluation"] = watch_evaluation(command, args)
    growths = {name: growth_of(samples) for name, samples in runs.items()}
    message = kill_a_worker(command, args.output / "run", max(1, args.workers))

    rows = [
        [name, runs[name][-1].done, runs[name][-1].seconds / 60, total(runs[name][-1]), growth.slope]
        for name, growth in growths.items()
    ]
    print(tabulate(rows, ["", "iterations, images", "minutes", "MiB at the end", "MiB per 1,000"], floatfmt=".1f"))
    print(f"\nA worker is killed: {message or 'no message, or more than one'}")
    write(args.output, runs, growths, message)
    most = {"training": args.most, "evaluation": args.most_of_evaluation}
    return 1 if not message or any(growth.slope > most[name] for name, growth in growths.items()) else 0


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, metavar="N", help="of training; default: %(default)s")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="to evaluate on; default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="that load images; default: %(default)s")
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
    add_output_argument(parser, "output/check_memory")
    return parser


def prepare(args: argparse.Namespace) -> list[str]:
    """Make the folder and return the command of a training.

    Raises:
        UserError: if this is no Linux, an argument is out of range, or the folder cannot be used.
    """
    if not memory_of(os.getpid()):
        raise UserError("memory is read from RssAnon in /proc/<pid>/status, which this system does not have: use Linux")
    if args.minutes < 0 or args.images < 0 or args.workers < 0 or args.period <= 0:
        raise UserError("--minutes, --images and --workers must be at least 0, --period above 0")
    if args.images > 0 and args.minutes == 0:
        raise UserError("--images are evaluated with the weights of the training: give --minutes above 0")
    make_new_folder(args.output)
    train = tiny_training.write_pictures(args.output / "train", NUM_TRAINING_PICTURES)
    test = tiny_training.write_pictures(args.output / "test", args.images) if args.images else train
    return command_of(tiny_training.CONFIG, "--train", *train, "--test", *test, overrides=OVERRIDES)


def watch_training(command: Sequence[str], args: argparse.Namespace) -> list[Sample]:
    output = args.output / "run"
    with started(command, output, args.workers) as training:
        training.wait_for_first_iteration()
        seconds = args.minutes * 60
        samples = list(samples_of(training, lambda: iterations_in(output), args.period, seconds, "training"))
        wait_until(lambda: (output / "last_checkpoint").exists(), training, SECONDS_TO_START, "wrote no checkpoint")
    return samples


def watch_evaluation(command: Sequence[str], args: argparse.Namespace) -> list[Sample]:
    command = [*command[:2], "--eval-only", *command[2:]]  # flags stand before the overrides
    with started(command, args.output / "run", args.workers) as evaluation:
        wait_until(lambda: images_in(evaluation.log()) > 0, evaluation, SECONDS_TO_START, "evaluated no image")
        samples = list(
            samples_of(evaluation, lambda: images_in(evaluation.log()), args.period, float("inf"), "evaluation")
        )
        evaluation.require_success()
    return samples


def wait_until(is_true: Callable[[], bool], training: Training, seconds: float, otherwise: str) -> None:
    """
    Raises:
        UserError: if the process ends before, or it takes longer.
    """
    end = time.monotonic() + seconds
    while not is_true():
        if training.process.poll() is not None:
            training.require_success()
        if training.process.poll() is not None or time.monotonic() > end:
            raise UserError(f"{training.output}: the process {otherwise} in {seconds:g} seconds, or has ended")
        time.sleep(0.1)


def samples_of(
    training: Training, count: Callable[[], int], period: float, seconds: float, title: str
) -> Iterator[Sample]:
    """Measure until the process ends, or for so many seconds.

    Raises:
        UserError: if it fails.
    """
    begin = time.monotonic()
    with tqdm(total=None if seconds == float("inf") else round(seconds), desc=title, unit="s") as progress:
        while training.process.poll() is None and (passed := time.monotonic() - begin) < seconds:
            main, *workers = (memory_of(pid) for pid in (training.process.pid, *children_of(training.process.pid)))
            if main > 0:  # it may just be ending
                yield Sample(passed, count(), main, sum(workers))
            progress.update(round(passed) - progress.n)
            time.sleep(period)
    if training.process.poll() is not None:
        training.require_success()


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


def total(sample: Sample) -> float:
    return sample.main + sample.workers


def growth_of(samples: Sequence[Sample]) -> Growth:
    """
    Raises:
        UserError: if there are too few samples.
    """
    counts = np.array([sample.done for sample in samples])
    last = counts.max(initial=0)
    is_steady = (counts >= WARM_UP * last) & (counts < last)
    if len(set(counts[is_steady].tolist())) < 3:
        raise UserError("too few samples to measure growth: give more --minutes or --images")
    totals = np.array([total(sample) for sample in samples])
    slope, start = np.polyfit(counts[is_steady], totals[is_steady], 1)
    return Growth(float(slope) * 1000, float(start), int(counts[is_steady][0]))


def kill_a_worker(command: Sequence[str], output: Path, workers: int) -> str:
    """Resume the training and kill one of its loader workers.

    Returns:
        The message that the training ends with; empty if there is none, or a traceback.

    Raises:
        UserError: if the training ends before.
    """
    with started(command, output, workers) as training:
        training.wait_for_first_iteration()
        wait_until(lambda: bool(children_of(training.process.pid)), training, SECONDS_TO_START, "has no worker")
        time.sleep(SECONDS_TO_KILL)
        os.kill(children_of(training.process.pid)[0], signal.SIGKILL)
        try:
            status = training.process.wait(SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            return ""
        _, error, message = training.log().rpartition("\nerror: ")
        return message.strip() if status == 1 and error and "Traceback" not in training.log() else ""


def write(output: Path, runs: dict[str, list[Sample]], growths: dict[str, Growth], message: str) -> None:
    content = {
        "message_when_a_worker_is_killed": message,
        **{
            name: {**growths[name]._asdict(), "samples": [[round(value, 2) for value in sample] for sample in samples]}
            for name, samples in runs.items()
        },
        "fields_of_samples": Sample._fields,
    }
    (output / "memory.json").write_text(json.dumps(content), encoding="utf-8")
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure((5 * max(1, len(runs)), 3.6), layout="constrained")
        for index, (name, samples) in enumerate(runs.items()):
            draw(figure.add_subplot(1, len(runs), index + 1), name, samples, growths[name])
        figure.savefig(output / "memory.png", dpi=150)


def draw(panel: Axes, name: str, samples: Sequence[Sample], growth: Growth) -> None:
    counts = [sample.done for sample in samples]
    panel.plot(counts, [total(sample) for sample in samples], label="all processes")
    panel.plot(counts, [sample.main for sample in samples], label="main process")
    ends = np.array([growth.first, counts[-1]])
    panel.plot(ends, growth.start + growth.slope / 1000 * ends, "k--", label=f"{growth.slope:+.2f} MiB per 1,000")
    panel.set(title=name, xlabel="images" if name == "evaluation" else "iterations", ylabel="MiB", ylim=(0, None))
    panel.legend(frameon=False, loc="lower right")


if __name__ == "__main__":
    with user_errors_as_messages():
        sys.exit(main())
