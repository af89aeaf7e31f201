#!/usr/bin/env python
"""Train or evaluate FCOS in either role from a LazyConfig; tools/train_net.py does the same from YAML.

Examples:
    tools/lazyconfig_train_net.py --config-file configs/lazy/fcos_R_50_FPN_1x.py --num-gpus 8
    tools/lazyconfig_train_net.py --config-file configs/lazy/fcos_R_50_FPN_1x.py --num-gpus 0 \\
        --train images/train train.json --test images/val val.json train.output_dir=output/mine model.core.head.norm=BN
    tools/lazyconfig_train_net.py --config-file output/mine/config.yaml --num-gpus 0 --eval-only \\
        train.init_checkpoint=FILE.pth
    torchrun --nproc_per_node 8 tools/lazyconfig_train_net.py --config-file configs/lazy/fcos_R_50_FPN_1x.py
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

try:
    import fcos_rpn  # noqa: F401
except ModuleNotFoundError as error:  # says how to get detectron2 if that is what is missing
    sys.exit(f"error: {error}")

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from fcos_rpn import lazy
from fcos_rpn.cli import make_folder
from fcos_rpn.launch import launch
from fcos_rpn.prepare import require_device

WHEN_STOPPED = "stopped; the same command with --resume goes on from the last checkpoint"


def build_argument_parser() -> argparse.ArgumentParser:
    parser = default_argument_parser(epilog=__doc__)
    folder = {"nargs": 2, "action": "append", "metavar": ("IMAGES", "JSON"), "default": []}
    parser.add_argument("--train", help="train on a folder in COCO's format; repeatable", **folder)
    parser.add_argument("--test", help="evaluate on a folder in COCO's format", **folder)
    parser.add_argument(
        "--reset-class-layers",
        action="store_true",
        help="start layers anew that have another shape in train.init_checkpoint because of other classes",
    )
    return parser


def read_config(args: argparse.Namespace, num_processes: int) -> DictConfig:
    """Config file, overrides and flags, in this order; for as many processes on this machine."""
    cfg = lazy.load(args.config_file, args.opts)
    if args.num_gpus == 0:
        cfg.train.device = "cpu"
    folders = cfg.train.get("folders", {})
    cfg.train.folders = {"train": args.train or folders.get("train", []), "test": args.test or folders.get("test", [])}
    require_device(cfg.train.device, num_processes)
    make_folder(Path(cfg.train.output_dir))
    return cfg


def main(args: argparse.Namespace, num_processes: int) -> None:
    """One process of the job. A config holds code, which each of them reads for itself."""
    cfg = read_config(args, num_processes)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="fcos_rpn", abbrev_name="fcos_rpn")
    lazy.use_folders(cfg, is_training=not args.eval_only)
    default_setup(cfg, args)
    if args.eval_only:
        lazy.evaluate(cfg, resume=args.resume)
    else:
        lazy.train(cfg, resume=args.resume, reset_class_layers=args.reset_class_layers)


def run(args: argparse.Namespace) -> None:
    """Launch the processes."""

    def prepare(num_processes: int) -> tuple[str, Callable[[], None]]:
        device = read_config(args, num_processes).train.device
        return device, functools.partial(main, args, num_processes)

    launch(prepare, args, when_stopped=WHEN_STOPPED)


if __name__ == "__main__":
    run(build_argument_parser().parse_args())
