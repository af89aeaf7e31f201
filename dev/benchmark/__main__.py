"""Measure time and memory of FCOS beside detectron2's FCOS and RetinaNet, torchvision's FCOS and the anchor RPN.

All have the same inputs and the same weights, take turns within one process, and are compared by their medians.
Compare ratios, and only within one run. Prints a table and writes OUTPUT/<subject>.json.

    python -m dev.benchmark all --quick                      test that everything runs, on small inputs
    python -m dev.benchmark inference --size 800 1067        one subject in full
"""

import argparse
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which measures memory, prints a greeting

import torch
from tqdm import tqdm

from dev.benchmark import assignment, evaluation, growth, inference, losses, proposals, training
from dev.benchmark.measuring import Comparison, Setup, measure
from dev.benchmark.peers import CONFIGS
from dev.benchmark.report import Report, growth_table
from fcos_rpn import UserError
from fcos_rpn.errors import make_folder, user_errors_as_messages

SUBJECTS: dict[str, tuple[str, Callable[[Setup], Iterator[Comparison]]]] = {
    "inference": ("images -> detections, and the convolutions alone", inference.comparisons),
    "train-step": ("time and memory of forward and backward", training.comparisons),
    "assign": ("ground truth -> targets", assignment.comparisons),
    "loss": ("forward and backward of the losses", losses.comparisons),
    "proposals": ("features -> proposals, against the anchor RPN", proposals.comparisons),
    "evaluate": ("AP and AR of a data set", evaluation.comparisons),
    "growth": ("each step against image size, batch, boxes and classes", growth.comparisons),
}


def build_argument_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    common.add_argument("--amp", action="store_true", help="models in float16 where autocast wants it; needs cuda")
    common.add_argument("--threads", type=int, default=2, help="of the CPU (default: %(default)s)")
    common.add_argument("--quick", action="store_true", help="small inputs and three rounds: a test, not a measurement")
    common.add_argument("--output", type=Path, default=Path("output/benchmark"), help="default: %(default)s")

    parser = argparse.ArgumentParser(
        "python -m dev.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subjects = parser.add_subparsers(dest="subject", required=True)
    for name, about in [*((name, about) for name, (about, _) in SUBJECTS.items()), ("all", "all of these")]:
        subject = subjects.add_parser(name, parents=[common], help=about, description=about)
        if name == "inference":
            subject.add_argument("--backbone", choices=CONFIGS, default="R50", help="default: %(default)s")
            subject.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="default: 800 1067")
            subject.add_argument("--batch", type=int, default=1, help="default: %(default)s")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print one subject or all."""
    args = build_argument_parser().parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave the option out to measure on the CPU")
    if args.amp and args.device == "cpu":
        raise UserError("--amp needs a GPU: add --device cuda")
    make_folder(args.output)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)  # hotcoco's, which is not loaded yet
    torch.set_num_threads(args.threads)
    setup = Setup(torch.device(args.device), is_quick=args.quick, uses_amp=args.amp)
    for subject in SUBJECTS if args.subject == "all" else [args.subject]:
        print(f"\n{subject}: {SUBJECTS[subject][0]}", flush=True)
        run(subject, comparisons(subject, args), setup, args.output)


def comparisons(subject: str, args: argparse.Namespace) -> Callable[[Setup], Iterator[Comparison]]:
    if args.subject != "inference":
        return SUBJECTS[subject][1]
    size = tuple(args.size) if args.size else None
    return functools.partial(inference.comparisons, backbone=args.backbone, size=size, batch_size=args.batch)


def run(subject: str, prepare: Callable[[Setup], Iterator[Comparison]], setup: Setup, output: Path) -> None:
    """Measure and print one subject; write the file after each comparison."""
    report = Report(subject, setup)
    for comparison in tqdm(prepare(setup), desc=subject, unit="comparison", leave=False):
        report.add(comparison, measure(comparison, setup))
        report.write(output)
    print(report.table())
    if subject == "growth":
        print(f"\n{growth_table(report)}")


if __name__ == "__main__":
    with user_errors_as_messages(when_stopped="stopped; what was measured before is in --output"):
        main()
