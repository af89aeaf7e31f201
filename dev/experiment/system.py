"""What is compared, and what all systems of a comparison have in common."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode

from fcos_rpn.config import read_config
from fcos_rpn.errors import UserError
from fcos_rpn.model_zoo import find_config

CONFIGS = Path(__file__).with_name("configs")


class System(NamedTuple):
    """One of the things that are compared."""

    title: str
    config: str
    """A file of `configs/`, or a name of `fcos_rpn.model_zoo`."""
    overrides: Sequence[Any] = ()
    """KEY, VALUE, ... that make it another system than the config's."""
    weights_of: str = ""
    """Another system, whose weights it is evaluated with: it trains nothing."""
    starts_from: str = ""
    """Another system, from whose weights of the same seed its training starts."""

    def read_config(self) -> CfgNode:
        """The config at no budget yet."""
        file = CONFIGS / self.config
        return read_config(
            file if file.is_file() else find_config(self.config), [str(value) for value in self.overrides]
        )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What all systems of a comparison have in common."""

    args: argparse.Namespace
    """Of `add_experiment_arguments`."""
    systems: Mapping[str, System]
    """By name; a system's runs are in the folder of that name."""
    criterion: tuple[str, str]
    """Task and figure of the evaluation by which learning rates are chosen."""
    followed: tuple[str, ...]
    """Figures of that task that are kept for every evaluation during the training."""
    summarize: Callable[[Mapping[str, Any], CfgNode], dict[str, Any]]
    """Maps the last evaluation's results by task, and the config of the run, to what is kept of it."""

    def __post_init__(self) -> None:
        for option in ("train", "test", "weights"):
            if getattr(self.args, option) is None:
                raise UserError(f"--{option} is missing")

    def build_config(self, name: str, *, rate: float, seed: int, fold: Sequence[Path] | None = None) -> CfgNode:
        """What a system is trained with, on all training images or on a fold of them."""
        args = self.args
        cfg = self.systems[name].read_config()
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        cfg.MODEL.WEIGHTS = args.weights
        cfg.SEED = seed
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (args.short_side,), args.short_side
        cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = round(args.short_side * 4 / 3)
        # Ranges and anchors of 8 x stride are made for a short side of 800.
        levels = cfg.MODEL.FCOS.IN_FEATURES if cfg.MODEL.META_ARCHITECTURE == "FCOS" else cfg.MODEL.RPN.IN_FEATURES
        scaled = [8.0 * 2 ** int(level[1:]) * args.short_side / 800 for level in levels]
        cfg.MODEL.FCOS.SIZES_OF_INTEREST = scaled[:-1]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in scaled]
        cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH = rate, args.batch
        if fold is None:
            cfg.DATASETS.TRAIN_FOLDERS, cfg.DATASETS.TEST_FOLDERS = [args.train], [args.test]
            cfg.SOLVER.MAX_ITER = args.iterations
            cfg.TEST.EVAL_PERIOD = max(1, args.iterations // args.evaluations)
            cfg.OUTPUT_DIR = str(args.output / name / f"seed{seed}")
        else:
            cfg.DATASETS.TRAIN_FOLDERS, cfg.DATASETS.TEST_FOLDERS = ([[args.train[0], str(file)]] for file in fold)
            cfg.SOLVER.MAX_ITER = max(1, args.iterations // args.fold_part)
            cfg.SOLVER.WARMUP_ITERS = cfg.SOLVER.WARMUP_ITERS // args.fold_part
            cfg.OUTPUT_DIR = str(args.output / name / f"rate{rate:g}")
        return cfg


def add_experiment_arguments(parser: argparse.ArgumentParser, *, output: str) -> None:
    """The command line of every comparison."""
    parser.add_argument("--train", nargs=2, metavar=("IMAGES", "JSON"), help="in COCO's format")
    parser.add_argument("--test", nargs=2, metavar=("IMAGES", "JSON"))
    parser.add_argument("--weights", metavar="FILE", help="the backbone's, from ImageNet; quick start writes one")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: %(default)s")
    parser.add_argument("--iterations", type=int, default=300, help="of each run (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images of an iteration (default: %(default)s)")
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[0.0025, 0.005, 0.01, 0.02, 0.04], help="default: %(default)s"
    )
    parser.add_argument(
        "--evaluations", type=int, default=6, help="of each run, the last at its end (default: %(default)s)"
    )
    parser.add_argument(
        "--fold-part",
        type=int,
        default=4,
        metavar="N",
        help="a learning rate is chosen at one in N of the iterations (default: %(default)s)",
    )
    parser.add_argument("--short-side", type=int, default=240, help="of the input, in pixels (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(output), help="default: %(default)s")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print the table of an earlier run's results.json")
