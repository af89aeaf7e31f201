#!/usr/bin/env python
"""Train or evaluate FCOS in either role, with Detectron2's arguments and habits.

Examples:
    tools/train_net.py --config-file configs/COCO-Detection/fcos_R_50_FPN_1x.yaml --num-gpus 8
    tools/train_net.py --config-file configs/custom/fcos_mobilenet_v2.yaml --num-gpus 0 \\
        --train images/train train.json --test images/val val.json OUTPUT_DIR output/mine
    tools/train_net.py --config-file output/mine/config.yaml --num-gpus 0 --eval-only MODEL.WEIGHTS FILE.pth
    torchrun --nproc_per_node 8 tools/train_net.py --config-file configs/COCO-Detection/fcos_R_50_FPN_1x.yaml
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable

try:
    import fcos_rpn  # noqa: F401
except ModuleNotFoundError as error:  # says how to get detectron2 if that is what is missing
    sys.exit(f"error: {error}")

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from fcos_rpn import UserError, add_fcos_config
from fcos_rpn.config import merge_file, merge_overrides
from fcos_rpn.engine import Trainer, evaluate
from fcos_rpn.launch import launch
from fcos_rpn.prepare import require_device, use_datasets

WHEN_STOPPED = "stopped; the same command with --resume goes on from the last checkpoint"


def build_argument_parser() -> argparse.ArgumentParser:
    parser = default_argument_parser(epilog=__doc__)
    folder = {"nargs": 2, "action": "append", "metavar": ("IMAGES", "JSON"), "default": []}
    parser.add_argument("--train", help="train on a folder in COCO's format; repeatable", **folder)
    parser.add_argument("--test", help="evaluate on a folder in COCO's format; repeatable", **folder)
    parser.add_argument(
        "--reset-class-layers",
        action="store_true",
        help="start layers anew that have another shape in MODEL.WEIGHTS because of other classes",
    )
    return parser


def read_config(args: argparse.Namespace, num_processes: int) -> CfgNode:
    """Config file, overrides and flags, in this order; for as many processes on this machine."""
    cfg = get_cfg()
    add_fcos_config(cfg)
    if args.config_file:
        merge_file(cfg, args.config_file)
    merge_overrides(cfg, args.opts)
    if args.num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN_FOLDERS = args.train or cfg.DATASETS.TRAIN_FOLDERS
    cfg.DATASETS.TEST_FOLDERS = args.test or cfg.DATASETS.TEST_FOLDERS
    require_device(cfg.MODEL.DEVICE, num_processes)
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR {cfg.OUTPUT_DIR}: cannot be made or written ({error.strerror})") from error
    return cfg


def main(cfg: CfgNode, args: argparse.Namespace) -> None:
    """One process of the job."""
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fcos_rpn", abbrev_name="fcos_rpn")
    use_datasets(cfg, is_training=not args.eval_only)
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        evaluate(cfg, resume=args.resume)
        return
    trainer = Trainer(cfg, reset_class_layers=args.reset_class_layers)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def run(args: argparse.Namespace) -> None:
    """Launch the processes."""

    def prepare(num_processes: int) -> tuple[str, Callable[[], None]]:
        cfg = read_config(args, num_processes)
        return cfg.MODEL.DEVICE, functools.partial(main, cfg, args)

    launch(prepare, args, when_stopped=WHEN_STOPPED)


if __name__ == "__main__":
    run(build_argument_parser().parse_args())
