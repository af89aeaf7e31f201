#!/usr/bin/env python
"""FCOS proposals against the anchor RPN: systems that differ in nothing but what is compared, over several seeds.

All have the same backbone, images, batch, schedule and seeds; anchors and ranges are 8 x stride, scaled from images of
800 pixels to the input size; each system's learning rate is the best of --rates on a fold of the training images, at a
part of the budget. Stopped at any moment, the same command goes on where it was.

Examples:
    tools/compare_proposals.py --train images train.json --test images val.json --weights mobilenet_v2.pth \\
        --output output/proposals
    tools/compare_proposals.py --table output/proposals/results.json
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import fcos_rpn  # noqa: F401
except ModuleNotFoundError as error:  # says how to get detectron2 if that is what is missing
    sys.exit(f"error: {error}")

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate

from fcos_rpn import UserError, model_zoo
from fcos_rpn.cli import user_errors_as_messages
from fcos_rpn.data import load_annotations
from fcos_rpn.engine import TrainingDiverged, use_datasets
from fcos_rpn.evaluation import FCOSEvaluator, RecallCurves, recall_by_iou, write_results
from fcos_rpn.evaluation.evaluator import proposals_by_image
from fcos_rpn.progress import TrainerWithProgress, log_to, training_seconds
from fcos_rpn.visualization import plot_recall, save_figure

SYSTEMS = {
    "rpn_gn": "anchor RPN, GN, 4 convolutions",
    "fcos_rpn_no_centerness": "FCOSRPN without centerness",
    "fcos_rpn": "FCOSRPN",
    "rpn": "anchor RPN as in Detectron2",
    "fcos_rpn_P3P7": "FCOSRPN on P3-P7",
}
"""Config in configs/evidence/ -> name."""

PAPER = {"rpn_gn": (44.7, 56.9), "fcos_rpn_no_centerness": (48.0, 59.3), "fcos_rpn": (52.8, 60.3)}
"""AR100 and AR1k of table 6: ResNet-50, 90k iterations on COCO."""

LIMITS = (1, 3, 10, 30, 100, 300, 1000)
FOLDS = 5
PART_OF_BUDGET = 4
"""The learning rate is chosen on every fifth training image, at a quarter of the iterations."""


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs=2, metavar=("IMAGES", "JSON"), help="in COCO's format")
    parser.add_argument("--test", nargs=2, metavar=("IMAGES", "JSON"))
    parser.add_argument("--weights", metavar="FILE", help="the backbone's, from ImageNet; quick start writes one")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS)[:3], help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: %(default)s")
    parser.add_argument("--iterations", type=iterations, default=300, help="of each run (default: %(default)s)")
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[0.0025, 0.005, 0.01, 0.02], help="default: %(default)s"
    )
    parser.add_argument("--short-side", type=int, default=240, help="of the input, in pixels (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/proposals"), help="default: %(default)s")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print the table of an earlier run's results.json")
    return parser


def iterations(text: str) -> int:
    if int(text) < PART_OF_BUDGET:
        raise argparse.ArgumentTypeError(
            f"{text} is too few: the learning rate is chosen at 1/{PART_OF_BUDGET} of them, so give {PART_OF_BUDGET} "
            "or more"
        )
    return int(text)


def main(args: argparse.Namespace) -> None:
    """The whole job, top-down."""
    if args.table:
        print(table(read_results(args.table)))
        return
    for option in ("train", "test", "weights"):
        if getattr(args, option) is None:
            raise UserError(f"--{option} is missing")
    log_to(args.output / "log.txt")

    rates = {system: best_rate(system, args) for system in args.systems}
    results: dict[str, Any] = {"iterations": args.iterations, "short_side": args.short_side, "rates": rates, "runs": []}
    for seed in args.seeds:
        for system in args.systems:
            found = run(system, args, rate=rates[system], seed=seed)
            results["runs"].append({"system": system, "seed": seed, **found})
            write_results(args.output / "results.json", results)
    save_figure(plot_recall(curves(results)), args.output / "curves")
    print(f"\n{table(results)}\n\nCurves: {args.output}/curves.png")


def build_config(
    system: str, args: argparse.Namespace, *, rate: float, seed: int, fold: Sequence[Path] | None = None
) -> CfgNode:
    """What a system is trained with, on all training images or on a fold of them."""
    cfg = model_zoo.get_config(f"evidence/{system}.yaml")
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.WEIGHTS = args.weights
    cfg.SEED = seed
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (args.short_side,), args.short_side
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = round(args.short_side * 4 / 3)
    scaled = [8.0 * 2 ** int(level[1:]) * args.short_side / 800 for level in cfg.MODEL.RPN.IN_FEATURES]
    cfg.MODEL.FCOS.SIZES_OF_INTEREST = scaled[:-1]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in scaled]
    cfg.SOLVER.BASE_LR = rate
    if fold is None:
        cfg.DATASETS.TRAIN_FOLDERS, cfg.DATASETS.TEST_FOLDERS = [args.train], [args.test]
        cfg.SOLVER.MAX_ITER = args.iterations
        cfg.TEST.EVAL_PERIOD = max(1, args.iterations // 6)
        cfg.OUTPUT_DIR = str(args.output / system / f"seed{seed}")
    else:
        cfg.DATASETS.TRAIN_FOLDERS, cfg.DATASETS.TEST_FOLDERS = ([[args.train[0], str(file)]] for file in fold)
        cfg.SOLVER.MAX_ITER = args.iterations // PART_OF_BUDGET
        cfg.SOLVER.WARMUP_ITERS = cfg.SOLVER.WARMUP_ITERS // PART_OF_BUDGET
        cfg.OUTPUT_DIR = str(args.output / system / f"rate{rate:g}")
    return cfg


def best_rate(system: str, args: argparse.Namespace) -> float:
    """The learning rate with the highest AR100 on the held-out fold.

    Raises:
        UserError: if the training diverges at all of them.
    """
    fold = split(Path(args.train[1]), args.output / "fold")
    found = {rate: run(system, args, rate=rate, seed=0, fold=fold) for rate in args.rates}
    recall = {rate: figures["AR@100"] for rate, figures in found.items() if "diverged" not in figures}
    if not recall:
        raise UserError(f"{SYSTEMS[system]}: training diverges at every learning rate of --rates; give lower ones")
    return max(recall, key=lambda rate: recall[rate])


def split(annotations: Path, folder: Path) -> tuple[Path, Path]:
    """Every fifth image is held out: two jsons of the same folder of images."""
    content = load_annotations(annotations).content
    folder.mkdir(exist_ok=True)
    files = folder / "train.json", folder / "held_out.json"
    for file, is_held_out in zip(files, (False, True), strict=True):
        ids = {image["id"] for n, image in enumerate(content["images"]) if (n % FOLDS == 0) == is_held_out}
        boxes = [box for box in content["annotations"] if box["image_id"] in ids]
        if not boxes:
            which = "every fifth image, which is held out," if is_held_out else "the images but every fifth"
            raise UserError(f"{annotations}: {which} must have boxes to choose the learning rate with; add images")
        part = {**content, "images": [image for image in content["images"] if image["id"] in ids], "annotations": boxes}
        file.write_text(json.dumps(part), encoding="utf-8")
    return files


def run(
    system: str, args: argparse.Namespace, *, rate: float, seed: int, fold: Sequence[Path] | None = None
) -> dict[str, Any]:
    """Train and evaluate, or take up what an earlier call has left: recall in percent, and seconds of training.

    On a fold, training that diverges is a finding, too: the only entry is then `diverged`, the reason.
    """
    cfg = build_config(system, args, rate=rate, seed=seed, fold=fold)
    output, title = Path(cfg.OUTPUT_DIR), f"{SYSTEMS[system]}, {f'rate {rate:g}' if fold else f'seed {seed}'}"
    require_same_settings(output, settings(system, args, rate=rate))
    if not (output / "run.json").exists():
        try:
            found = train(cfg, title)
        except TrainingDiverged as error:
            if not fold:
                raise
            print(f"{title}: training diverged")
            found = {"diverged": str(error)}
        write_results(output / "run.json", found)
    return read_json(output / "run.json")


def settings(system: str, args: argparse.Namespace, *, rate: float) -> dict[str, Any]:
    """All that the figures of a run depend on, but for the system and the seed, which its folder is named after."""

    def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
        flat = {}
        for key, value in node.items():
            flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value})
        return flat

    return {
        "--train": [str(Path(path).resolve()) for path in args.train],
        "--test": [str(Path(path).resolve()) for path in args.test],
        "--weights": str(Path(args.weights).resolve()),
        "--iterations": args.iterations,
        "--short-side": args.short_side,
        "rate": rate,
        **flatten(model_zoo.get_config(f"evidence/{system}.yaml")),
    }


def require_same_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Note the settings of a run that begins.

    Raises:
        UserError: if the folder holds a run with others.
    """
    file = folder / "settings.json"
    if not file.exists() and not (folder / "metrics.json").exists():  # the log of a run that has begun
        write_results(file, settings)
    before, now = read_json(file), json.loads(json.dumps(settings))  # JSON has lists for tuples
    differences = [
        f"{key} {before.get(key)}, now {now.get(key)}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]
    if differences:
        message = f"{folder} holds a run with other settings; give another --output or delete that folder:"
        raise UserError("\n  ".join([message, *differences]))


def train(cfg: CfgNode, title: str) -> dict[str, Any]:
    """From the last checkpoint, if there is one."""
    output = Path(cfg.OUTPUT_DIR)
    use_datasets(cfg)
    cfg.freeze()
    seed_all_rng(cfg.SEED)
    trainer = ProposalTrainer(cfg, title=title)
    trainer.resume_or_load(resume=True)
    with contextlib.redirect_stdout(io.StringIO()):  # the table at the end says it all
        trainer.train()
    (found,) = read_json(output / "results.json").values()  # of the last evaluation
    return {
        **found["box_proposals"],
        "curves": {str(limit): found[f"recall@{limit}"] for limit in LIMITS},
        "by_iteration": recall_by_iteration(output / "metrics.json", cfg.SOLVER.MAX_ITER),
        "seconds": training_seconds(output / "metrics.json"),
    }


class ProposalTrainer(TrainerWithProgress):
    """Keeps the recall at every IoU and number of boxes."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> FCOSEvaluator:
        return ProposalEvaluator(dataset_name, output_dir=str(Path(cfg.OUTPUT_DIR) / "inference"))


class ProposalEvaluator(FCOSEvaluator):
    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        super()._eval_box_proposals(predictions)
        proposals = proposals_by_image(predictions)
        for limit, by_iou in recall_by_iou(self._coco_api.dataset, proposals, limits=LIMITS).items():
            self._results[f"recall@{limit}"] = by_iou


def recall_by_iteration(metrics: Path, max_iter: int) -> dict[str, dict[str, float]]:
    """AR by iteration, from Detectron2's log, to which an interrupted and resumed run appends."""
    lines = (json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines())
    return {
        # Iterations count from 0, but the evaluation after the last one is logged under the next number.
        str(min(line["iteration"] + 1, max_iter)): {key: line[f"box_proposals/{key}"] for key in ("AR@100", "AR@1000")}
        for line in lines
        if "box_proposals/AR@100" in line
    }


def table(results: Mapping[str, Any]) -> str:
    """A row for each system: mean and spread over the seeds, and the paper's own figures."""
    rows = []
    for system, runs in by_system(results).items():
        figures = [mean_and_spread([run[key] for run in runs]) for key in ("AR@100", "AR@1000")]
        seconds = statistics.mean(run["seconds"] for run in runs)
        paper = [f"{value:.1f}" for value in PAPER.get(system, ())] or ["-", "-"]
        rows.append([SYSTEMS[system], f"{results['rates'][system]:g}", len(runs), *figures, f"{seconds:.0f}", *paper])
    headers = ["system", "rate", "seeds", "AR100", "AR1k", "seconds", "paper's AR100", "paper's AR1k"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def curves(results: Mapping[str, Any]) -> dict[str, RecallCurves]:
    """Of each system, the mean over its seeds, at the iterations that all of them have.

    A run that is stopped between a checkpoint and the next entry of its log resumes without that evaluation.
    """
    found = {}
    for system, runs in by_system(results).items():
        by_iou = {
            limit: {float(iou): statistics.mean(run["curves"][str(limit)][iou] for run in runs) for iou in ious}
            for limit, ious in ((limit, runs[0]["curves"][str(limit)]) for limit in LIMITS)
        }
        found[SYSTEMS[system]] = RecallCurves(
            by_iou={limit: by_iou[limit] for limit in (100, 1000)},
            by_limit={limit: statistics.mean(recall.values()) for limit, recall in by_iou.items()},
            by_iteration={
                int(iteration): statistics.mean(run["by_iteration"][iteration]["AR@100"] for run in runs)
                for iteration in runs[0]["by_iteration"]
                if all(iteration in run["by_iteration"] for run in runs)
            },
        )
    return found


def by_system(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        runs.setdefault(run["system"], []).append(run)
    return runs


def mean_and_spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def read_results(file: Path) -> dict[str, Any]:
    results = read_json(file)
    if not isinstance(results, dict) or not {"rates", "runs"} <= results.keys():
        raise UserError(f"{file} is of another kind: this tool's results.json lies in --output, not in a run's folder")
    return results


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error


if __name__ == "__main__":
    with user_errors_as_messages(when_stopped="stopped; the same command goes on from the last checkpoint"):
        main(build_argument_parser().parse_args())
