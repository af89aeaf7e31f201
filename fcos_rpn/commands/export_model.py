"""Write a trained FCOS, or a ProposalNetwork with FCOSRPN, as one file that runs without this package: image in, boxes
out, suppression included, for images of any size. Of R-CNNs a plain Faster R-CNN with FCOSRPN can be, best effort.

Examples:
    fcos-rpn export --config-file output/mine/config.yaml --weights output/mine/model_final.pth --format onnx
    fcos-rpn export --config-file output/mine/config.yaml --weights output/mine/model_final.pth \\
        --format torch_export --output fcos.pt2 --size 800 1216 --benchmark MODEL.FCOS.SCORE_THRESH_TEST 0.3
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, with which --benchmark follows memory, greets

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import nn
from torch.export import ExportedProgram

from dev.benchmark.measuring import Comparison, Setup, measure

from ..checkpoint import FCOSCheckpointer, read_class_names
from ..config import read_config
from ..errors import UserError, make_folder
from ..export import FORMATS, TwoStageNetwork, export_graph, network_of, require_packages, write_whole
from ..model_zoo import find_config


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole job, top-down."""
    args = build_argument_parser().parse_args(arguments)
    form = FORMATS[args.format]
    require_packages(form.packages, wanted_for=f"--format {args.format}")
    if args.benchmark and args.format == "onnx":
        require_packages(["onnxruntime"], wanted_for="--benchmark")
    cfg = config_of(args)
    output = args.output or Path("output/export") / f"{Path(args.config_file).stem}{form.suffix}"
    model = build_model(cfg).eval()
    FCOSCheckpointer(model, require_all=True).load(cfg.MODEL.WEIGHTS)
    network = network_of(model)

    make_folder(output.parent)
    with write_whole(output) as file:
        program = export_graph(network, size=tuple(args.size))
        form.write(program, network.output_names, notes_of(cfg), file)
    if isinstance(network, TwoStageNetwork):
        print(
            "best effort: Detectron2's RoI heads, followed in another way; compare with the model before you rely on it"
        )
    print(f"{output}: image ({len(network.pixel_mean)}, height, width) -> {', '.join(network.output_names)}")
    if args.benchmark:
        print(latency_table(model, program, output if args.format == "onnx" else None, tuple(args.size)))


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="of the model: a file, or a config's name")
    parser.add_argument("--weights", required=True, metavar="FILE", help="a checkpoint of the model")
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the file")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(480, 640),
        metavar=("H", "W"),
        help="height and width to trace and to measure with; the file takes others as well; default: 480 640",
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
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help="measure the model, its graph and, of format onnx, the file in onnxruntime, in turn",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser


def config_of(args: argparse.Namespace) -> CfgNode:
    """Config file and overrides, on the CPU.

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
    """What a user of the file must know: how to read and resize an image, and the classes, as far as they are known."""
    return {
        "channels": cfg.INPUT.FORMAT,
        "min_size": str(cfg.INPUT.MIN_SIZE_TEST),
        "max_size": str(cfg.INPUT.MAX_SIZE_TEST),
        "class_names": json.dumps(read_class_names(cfg.MODEL.WEIGHTS)),
    }


def latency_table(model: nn.Module, program: ExportedProgram, onnx_file: Path | None, size: tuple[int, int]) -> str:
    """Milliseconds of one image of noise: medians over rounds in which all take turns."""
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 255
    graph = program.module()
    cases: dict[str, Callable[[], Any]] = {
        "eager": lambda: model([{"image": image}]),
        "torch.export": lambda: graph(image),
    }
    if onnx_file is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as many as the others have
        session = onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])
        cases["onnxruntime"] = lambda: session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        found = measure(Comparison({}, cases), Setup())
    first = found["eager"].seconds
    rows = [
        (name, measured.seconds * 1000, measured.spread * 1000, measured.seconds / first)
        for name, measured in found.items()
    ]
    heads = (f"{size[0]} x {size[1]}", "median, ms", "interquartile range, ms", "of eager")
    return tabulate(rows, heads, floatfmt=("", ".1f", ".1f", ".2f"))
