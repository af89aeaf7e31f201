"""Train or evaluate FCOS in either role from a YAML or a LazyConfig, with Detectron2's arguments and habits.

Examples:
    fcos-rpn train --config-file configs/COCO-Detection/fcos_R_50_FPN_1x.yaml --num-gpus 8
    fcos-rpn train --config-file configs/custom/fcos_mobilenet_v2.yaml --num-gpus 0 \\
        --train images/train train.json --test images/val val.json OUTPUT_DIR output/mine
    fcos-rpn train --config-file output/mine/config.yaml --num-gpus 0 --eval-only MODEL.WEIGHTS FILE.pth
    fcos-rpn train --config-file configs/lazy/fcos_R_50_FPN_1x.py --num-gpus 8 train.output_dir=output/mine
    torchrun --nproc_per_node 8 tools/train_net.py --config-file configs/COCO-Detection/fcos_R_50_FPN_1x.yaml
"""

import argparse
import functools
from collections.abc import Sequence

from detectron2.engine import default_argument_parser

from ..config import is_lazy
from ..engine import lazy, yaml
from ..engine.launch import launch

WHEN_STOPPED = "stopped; rerun with --resume to continue from the last checkpoint"


def main(arguments: Sequence[str] | None = None) -> None:
    """Launch the processes."""
    args = build_argument_parser().parse_args(arguments)
    prepare = lazy.prepare if is_lazy(args.config_file) else yaml.prepare
    launch(functools.partial(prepare, args), args, when_stopped=WHEN_STOPPED)


def build_argument_parser() -> argparse.ArgumentParser:
    parser = default_argument_parser(epilog=__doc__)
    folder = {"nargs": 2, "action": "append", "metavar": ("IMAGES", "JSON"), "default": []}
    parser.add_argument("--train", help="train on a folder in COCO's format; repeatable", **folder)
    parser.add_argument("--test", help="evaluate on a folder in COCO's format; repeatable", **folder)
    parser.add_argument(
        "--reset-class-layers",
        action="store_true",
        help="start layers anew whose shape in the given weights differs because of other classes",
    )
    return parser
