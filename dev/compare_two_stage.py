"""Compare Faster R-CNNs on FCOS proposals with those on the anchor RPN, each with variants that may gain AP.

A system is a proposal generator and its variants (dev/experiment/variants.py): rpn, fcos_rpn, fcos_rpn+p2+fused, ...;
`fcos` is the one-stage detector. All have the same backbone, images, batch, schedule and seeds. Each system's learning
rate is the best of --rates on a fold of the training images. The command may be stopped at any moment; rerun it to
continue.

Examples:
    python -m dev.compare_two_stage --screen --train images train.json --test images val.json --weights mobilenet_v2.pth
    python -m dev.compare_two_stage --screen --systems rpn+p2 fcos_rpn+p2 fcos_rpn+p2+loss_weight_0.3 \\
        --train images train.json --test images val.json --weights mobilenet_v2.pth
    python -m dev.compare_two_stage --systems rpn+p2 fcos_rpn+p2+fused fcos --proposals 30 100 300 1000 \\
        --train images train.json --test images val.json --weights mobilenet_v2.pth
    python -m dev.compare_two_stage --table output/two_stage/results.json
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from dev.experiment.fold import split
from dev.experiment.plots import plot_lines
from dev.experiment.run import best_rate, load_model, run
from dev.experiment.summary import by_system, mean_and_spread
from dev.experiment.system import Experiment, add_experiment_arguments
from dev.experiment.variants import GENERATORS, screened_systems, system_of, trained_system
from fcos_rpn import UserError
from fcos_rpn.engine import yaml
from fcos_rpn.engine.progress import log_to
from fcos_rpn.engine.setup import use_datasets
from fcos_rpn.errors import user_errors_as_messages
from fcos_rpn.evaluation import write_results

COMPARED = ("rpn", "fcos_rpn", "fcos")
FIGURES = ("AP", "AP50", "AP75", "AR@100", "AR@1000")
NUM_TIMED_IMAGES = 30


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--screen",
        action="store_true",
        help="on a fold of the training images, at a quarter of the iterations",
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        help=f"default: {' '.join(COMPARED)}; with --screen: each variant except warm_start, with each generator",
    )
    parser.add_argument(
        "--proposals", nargs="+", type=int, default=[], metavar="K", help="AP and time of --systems at these numbers"
    )
    add_experiment_arguments(parser, output="output/two_stage")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate and print a table."""
    args = build_argument_parser().parse_args(arguments)
    if args.table:
        print(table(json.loads(args.table.read_text(encoding="utf-8"))))
        return
    if args.screen and args.proposals:
        raise UserError("--proposals goes without --screen: what is screened is not evaluated on the test images")
    experiment = build_experiment(args)
    log_to(args.output / "log.txt")

    names = systems_of(args)
    fold = split(Path(args.train[1]), args.output / "fold") if args.screen else None
    seeds = [0] if args.screen else args.seeds
    rates = {name: best_rate(experiment, name) for name in names}
    results: dict[str, Any] = {"rates": rates, "runs": [], "limits": []}
    file = args.output / ("screen.json" if args.screen else "results.json")
    for seed, name in itertools.product(seeds, names):
        found = run(experiment, name, rate=rates[name], seed=seed, fold=fold)
        results["runs"].append({"system": name, "seed": seed, **found})
        write_results(file, results)
    if args.proposals:
        results["limits"] = by_limit(experiment, names, rates, seeds, args.proposals)
        write_results(file, results)
        curves = limit_curves(results)
        panels = [{name: {float(k): x[i] for k, x in curve.items()} for name, curve in curves.items()} for i in (0, 1)]
        titles = ("AP over proposals", "Seconds an image over proposals")
        plot_lines(dict(zip(titles, panels, strict=True)), args.output / "limits.png")
    print(f"\n{table(results)}")


def systems_of(args: argparse.Namespace) -> Sequence[str]:
    named: Sequence[str] | None = args.systems
    return named or (screened_systems() if args.screen else COMPARED)


def build_experiment(args: argparse.Namespace) -> Experiment:
    plain = [*GENERATORS, *systems_of(args)]
    with_limits = [f"{name}@{limit}" for name in systems_of(args) for limit in args.proposals]
    return Experiment(
        args=args,
        systems={name: system_of(name) for name in [*plain, *map(trained_system, plain), *with_limits]},
        criterion=("bbox", "AP"),
        followed=("AP", "AP50"),
        summarize=ap_and_recall,
    )


def ap_and_recall(found: Mapping[str, Any], cfg: CfgNode) -> dict[str, Any]:
    figures = {**found["bbox"], **found["box_proposals"]}
    return {name: figures[name] for name in FIGURES}


def by_limit(
    experiment: Experiment,
    names: Sequence[str],
    rates: Mapping[str, float],
    seeds: Sequence[int],
    limits: Sequence[int],
) -> list[dict[str, Any]]:
    """AP and seconds per image of each two-stage system at each number of proposals."""
    systems = [f"{name}@{limit}" for name in names if name != "fcos" for limit in limits]
    seconds = seconds_per_image({name: load(experiment, name, rates, seeds[0]) for name in systems}, experiment)
    return [
        {
            "system": name.partition("@")[0],
            "limit": int(name.partition("@")[2]),
            "seed": seed,
            "AP": run(experiment, name, rate=rates[name.partition("@")[0]], seed=seed)["AP"],
            "seconds_per_image": seconds[name],
        }
        for seed, name in itertools.product(seeds, systems)
    ]


def load(experiment: Experiment, name: str, rates: Mapping[str, float], seed: int) -> nn.Module:
    """Load a system that has been trained."""
    system, rate = experiment.systems[name], rates[name.partition("@")[0]]
    trained = experiment.build_config(system.weights_of or name, rate=rate, seed=seed)
    cfg = experiment.build_config(name, rate=rate, seed=seed)
    return load_model(cfg, str(Path(trained.OUTPUT_DIR) / "model_final.pth")).eval()


@torch.no_grad()
def seconds_per_image(models: Mapping[str, nn.Module], experiment: Experiment) -> dict[str, float]:
    """Take medians over the first test images. All models see an image before the next one comes, so that they share
    the machine's good and bad moments."""
    cfg = experiment.build_config(next(iter(models)), rate=0.0, seed=0)
    use_datasets(cfg, is_training=False)
    loader = yaml.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for inputs in tqdm(itertools.islice(loader, NUM_TIMED_IMAGES), desc="timing", total=NUM_TIMED_IMAGES):
        for name, model in models.items():
            start = time.perf_counter()
            model(inputs)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(results: Mapping[str, Any]) -> str:
    """Format a row for each system: mean and spread over the seeds; below, the least sufficient number of proposals."""
    rows = []
    for name, runs in by_system(results).items():
        figures = [mean_and_spread([run[figure] for run in runs]) for figure in FIGURES]
        rows.append([system_of(name).title, f"{results['rates'][name]:g}", len(runs), *figures])
    headers = ["system", "rate", "seeds", "AP", "AP50", "AP75", "AR100", "AR1k"]
    tables = [tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)]
    if results["limits"]:
        sufficient = [plateau(name, curve) for name, curve in limit_curves(results).items()]
        headers = ["system", "proposals for its AP", "AP there", "ms per image", "AP at most proposals", "ms per image"]
        tables.append(tabulate(sufficient, headers=headers, tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(tables)


def limit_curves(results: Mapping[str, Any]) -> dict[str, dict[int, tuple[float, float]]]:
    """Title of a system -> number of proposals -> mean AP over the seeds, and seconds per image."""
    curves: dict[str, dict[int, tuple[float, float]]] = {}
    for name, runs in by_system({"runs": results["limits"]}).items():
        limits = sorted({run["limit"] for run in runs})
        curves[system_of(name).title] = {
            limit: (
                statistics.mean(run["AP"] for run in runs if run["limit"] == limit),
                next(run["seconds_per_image"] for run in runs if run["limit"] == limit),
            )
            for limit in limits
        }
    return curves


def plateau(title: str, curve: Mapping[int, tuple[float, float]], *, tolerance: float = 0.1) -> list[str]:
    """The row of the smallest number of proposals whose AP is within the tolerance of that at the largest number."""
    most = max(curve)
    enough = min(limit for limit, (ap, _) in curve.items() if ap >= curve[most][0] - tolerance)
    return [
        title,
        str(enough),
        f"{curve[enough][0]:.1f}",
        f"{1000 * curve[enough][1]:.0f}",
        f"{curve[most][0]:.1f}",
        f"{1000 * curve[most][1]:.0f}",
    ]


if __name__ == "__main__":
    with user_errors_as_messages(when_stopped="stopped; rerun the command to continue from the last checkpoint"):
        main()
