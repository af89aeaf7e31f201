#!/usr/bin/env python
"""Train or evaluate FCOS in either role from a LazyConfig; tools/train_net.py does the same from YAML.

Examples:
    tools/lazyconfig_train_net.py --config-file configs/lazy/fcos_R_50_FPN_1x.py --num-gpus 8
    tools/lazyconfig_train_net.py --config-file configs/lazy/fcos_R_50_FPN_1x.py --num-gpus 0 \\
        --train images/train train.json --test images/val val.json train.output_dir=output/mine model.core.head.norm=BN
    tools/lazyconfig_train_net.py --config-file output/mine/config.yaml --num-gpus 0 --eval-only \\
        train.init_checkpoint=FILE.pth
"""

import argparse
import os
import sys
from pathlib import Path

try:
    import fcos_rpn  # noqa: F401
except ModuleNotFoundError as error:  # says how to get detectron2 if that is what is missing
    sys.exit(f"error: {error}")

from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch.multiprocessing import ProcessExitedException

from fcos_rpn import lazy
from fcos_rpn.cli import make_folder, user_errors_as_messages
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


def read_config(args: argparse.Namespace) -> DictConfig:
    """Config file, overrides and flags, in this order."""
    cfg = lazy.load(args.config_file, args.opts)
    if args.num_gpus == 0:
        cfg.train.device = "cpu"
    folders = cfg.train.get("folders", {})
    cfg.train.folders = {"train": args.train or folders.get("train", []), "test": args.test or folders.get("test", [])}
    require_device(cfg.train.device, args.num_gpus)
    make_folder(Path(cfg.train.output_dir))
    return cfg


def main(args: argparse.Namespace) -> None:
    """One process of the job. A config holds code, which each of them reads for itself."""
    with user_errors_as_messages(when_stopped=WHEN_STOPPED):
        cfg = read_config(args)
        setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="fcos_rpn", abbrev_name="fcos_rpn")
        lazy.use_folders(cfg, is_training=not args.eval_only)
        default_setup(cfg, args)
        if args.eval_only:
            lazy.evaluate(cfg, resume=args.resume)
        else:
            lazy.train(cfg, resume=args.resume, reset_class_layers=args.reset_class_layers)


def run(args: argparse.Namespace) -> None:
    """Launch the processes: one per GPU, or as many on the CPU."""
    with user_errors_as_messages(when_stopped=WHEN_STOPPED):
        if read_config(args).train.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else Detectron2's launch gives every process a GPU
        try:
            launch(
                main,
                max(1, args.num_gpus),
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
        except ProcessExitedException as error:
            sys.exit(error.exit_code)  # that process has said why


if __name__ == "__main__":
    run(build_argument_parser().parse_args())
