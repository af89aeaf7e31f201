"""Write a trained FCOS, or a ProposalNetwork with FCOSRPN, as one file that runs without this package: image in, boxes
out, suppression included, for images of any size. A plain Faster R-CNN with FCOSRPN can be written, too, best effort.

Examples:
    fcos-rpn export --config-file output/mine/config.yaml --weights output/mine/model_final.pth --format onnx
    fcos-rpn export --config-file output/mine/config.yaml --weights output/mine/model_final.pth \\
        --format torch_export --output fcos.pt2 --size 800 1216 MODEL.FCOS.SCORE_THRESH_TEST 0.3
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from ..checkpoint import read_class_names
from ..config import read_config
from ..errors import UserError, write_whole
from ..export import FORMATS, TwoStageNetwork, export_graph, network_of, require_packages
from ..model_zoo import find_config
from .arguments import command_parser, load_model


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole job, top-down."""
    args = build_argument_parser().parse_args(arguments)
    form = FORMATS[args.format]
    require_packages(form.packages, wanted_for=f"--format {args.format}")
    cfg = config_of(args)
    output = args.output or Path("output/export") / f"{Path(args.config_file).stem}{form.suffix}"
    network = network_of(load_model(cfg, args.weights))

    with write_whole(output) as file:
        program = export_graph(network, size=tuple(args.size))
        form.write(program, network.output_names, notes_of(cfg), file)
    if isinstance(network, TwoStageNetwork):
        print("best effort: Detectron2's RoI heads are computed in another way; compare the file with the model")
    print(f"{output}: image ({len(network.pixel_mean)}, height, width) -> {', '.join(network.output_names)}")


def build_argument_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, has_weights=True)
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the file")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(480, 640),
        metavar=("H", "W"),
        help="height and width to trace with; the file takes others as well; default: 480 640",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: output/export/, named after config and format"
    )
    parser.add_argument(
        "--proposals",
        type=int,
        metavar="K",
        help="of a ProposalNetwork: give at most K boxes; default: the config's MODEL.RPN.POST_NMS_TOPK_TEST",
    )
    return parser


def config_of(args: argparse.Namespace) -> CfgNode:
    """Read config file and overrides, for the CPU.

    Raises:
        UserError: on a mistake in the config, or a number of proposals for a model that makes none.
    """
    cfg = read_config(find_config(args.config_file), args.opts)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = args.weights
    if args.proposals is not None:
        if cfg.MODEL.META_ARCHITECTURE not in ("ProposalNetwork", "BatchedProposalNetwork"):
            raise UserError(
                f"--proposals {args.proposals}: {cfg.MODEL.META_ARCHITECTURE} gives no proposals. How many detections "
                "it gives is TEST.DETECTIONS_PER_IMAGE"
            )
        if args.proposals < 1:
            raise UserError(f"--proposals must be 1 or more, not {args.proposals}")
        cfg.MODEL.RPN.POST_NMS_TOPK_TEST = args.proposals
    return cfg


def notes_of(cfg: CfgNode) -> dict[str, str]:
    """Return what a user of the file must know: how to read and resize an image, and the checkpoint's class names."""
    return {
        "channels": cfg.INPUT.FORMAT,
        "min_size": str(cfg.INPUT.MIN_SIZE_TEST),
        "max_size": str(cfg.INPUT.MAX_SIZE_TEST),
        "class_names": json.dumps(read_class_names(cfg.MODEL.WEIGHTS)),
    }
