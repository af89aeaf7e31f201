"""Compare FCOS proposals with those of the anchor RPN, over several seeds.

All systems have the same backbone, images, batch, schedule and seeds. Anchors and ranges are 8 x stride, scaled from
images of 800 pixels to the input size. Each system's learning rate is the best of --rates on a fold of the training
images, at a part of the budget. The command may be stopped at any moment; rerun it to continue.

Examples:
    python -m dev.compare_proposals --train images train.json --test images val.json --weights mobilenet_v2.pth \\
        --output output/proposals
    python -m dev.compare_proposals --table output/proposals/results.json
"""

import argparse
import json
import pickle
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from dev.experiment.plots import plot_lines
from dev.experiment.run import best_rate, run
from dev.experiment.summary import by_system, mean_and_spread
from dev.experiment.system import Experiment, System, add_experiment_arguments
from fcos_rpn.data import load_annotations
from fcos_rpn.engine.progress import log_to
from fcos_rpn.errors import user_errors_as_messages
from fcos_rpn.evaluation import recall_by_iou, write_results

SYSTEMS = {
    "rpn_gn": System("anchor RPN, GN, 4 convolutions", "rpn_gn.yaml"),
    "fcos_rpn_no_centerness": System("FCOSRPN without centerness", "fcos_rpn_no_centerness.yaml"),
    "fcos_rpn": System("FCOSRPN", "fcos_rpn.yaml"),
    "rpn": System("anchor RPN as in Detectron2", "rpn.yaml"),
    "fcos_rpn_P3P7": System("FCOSRPN on P3-P7", "fcos_rpn_P3P7.yaml"),
}

PAPER = {"rpn_gn": (44.7, 56.9), "fcos_rpn_no_centerness": (48.0, 59.3), "fcos_rpn": (52.8, 60.3)}
"""AR100 and AR1k of table 6: ResNet-50, 90k iterations on COCO."""

LIMITS = (1, 3, 10, 30, 100, 300, 1000)


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS)[:3], help="default: %(default)s")
    add_experiment_arguments(parser, output="output/proposals")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate and print a table."""
    args = build_argument_parser().parse_args(arguments)
    if args.table:
        print(table(json.loads(args.table.read_text(encoding="utf-8"))))
        return
    experiment = Experiment(
        args=args,
        systems=SYSTEMS,
        criterion=("box_proposals", "AR@100"),
        followed=("AR@100", "AR@1000"),
        summarize=recall_and_curves,
    )
    log_to(args.output / "log.txt")

    rates = {system: best_rate(experiment, system) for system in args.systems}
    results: dict[str, Any] = {"iterations": args.iterations, "short_side": args.short_side, "rates": rates, "runs": []}
    for seed in args.seeds:
        for system in args.systems:
            found = run(experiment, system, rate=rates[system], seed=seed)
            results["runs"].append({"system": system, "seed": seed, **found})
            write_results(args.output / "results.json", results)
    plot_lines(curves(results), args.output / "curves.png")
    print(f"\n{table(results)}\n\nCurves: {args.output}/curves.png")


def recall_and_curves(found: Mapping[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """Recall in percent, and for each limit the recall by IoU threshold, from the proposals that the evaluation has
    written."""
    (name,) = cfg.DATASETS.TEST
    written = pickle.loads((Path(cfg.OUTPUT_DIR) / "inference" / name / "box_proposals.pkl").read_bytes())
    boxes, logits = (map(torch.as_tensor, written[key]) for key in ("boxes", "objectness_logits"))
    proposals = dict(zip(written["ids"], zip(boxes, logits, strict=True), strict=True))
    annotations = load_annotations(Path(cfg.DATASETS.TEST_FOLDERS[0][1])).content
    curves = recall_by_iou(annotations, proposals, limits=LIMITS)
    return {**found["box_proposals"], "curves": {str(limit): by_iou for limit, by_iou in curves.items()}}


def table(results: Mapping[str, Any]) -> str:
    """Format a row for each system: mean and spread over the seeds, and the paper's own figures."""
    rows = []
    for system, runs in by_system(results).items():
        figures = [mean_and_spread([run[key] for run in runs]) for key in ("AR@100", "AR@1000")]
        seconds = statistics.mean(run["seconds"] for run in runs)
        paper = [f"{value:.1f}" for value in PAPER.get(system, ())] or ["-", "-"]
        rate = f"{results['rates'][system]:g}"
        rows.append([SYSTEMS[system].title, rate, len(runs), *figures, f"{seconds:.0f}", *paper])
    headers = ["system", "rate", "seeds", "AR100", "AR1k", "seconds", "paper's AR100", "paper's AR1k"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def curves(results: Mapping[str, Any]) -> dict[str, dict[str, dict[float, float]]]:
    """Compute the panels of `plot_lines`."""

    def mean(figures_of: Callable[[dict[str, Any]], dict[str, float]]) -> dict[str, dict[float, float]]:
        """Average over the seeds. A run that is stopped between a checkpoint and the next line of its log resumes
        without that evaluation; an iteration that a seed lacks is left out."""
        found = {}
        for system, runs in by_system(results).items():
            first, *others = map(figures_of, runs)
            common = [key for key in first if all(key in other for other in others)]
            found[SYSTEMS[system].title] = {float(k): statistics.mean(x[k] for x in (first, *others)) for k in common}
        return found

    def by_limit(run: dict[str, Any]) -> dict[str, float]:
        return {limit: statistics.mean(by_iou.values()) for limit, by_iou in run["curves"].items()}

    def by_iteration(run: dict[str, Any]) -> dict[str, float]:
        return {iteration: figures["AR@100"] for iteration, figures in run["by_iteration"].items()}

    return {
        "Recall of 100 boxes over IoU": mean(lambda run: run["curves"]["100"]),
        "Recall of 1000 boxes over IoU": mean(lambda run: run["curves"]["1000"]),
        "Average recall over boxes an image": mean(by_limit),
        "AR100 over iterations of the training": mean(by_iteration),
    }


if __name__ == "__main__":
    with user_errors_as_messages(when_stopped="stopped; rerun the command to continue from the last checkpoint"):
        main()
