"""Analyze which boxes of a data set a config can learn, from the annotations alone: no pictures, no weights.

Shows best possible recall, ambiguous samples, positives per level and per box, unlearned boxes, and the numbers of
locations or anchors and of output variables. Images have the size of INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, each padded
alone. RetinaNet's and RPN's anchors take minutes on thousands of images.

Examples:
    fcos-rpn analyze --config-file configs/COCO-Detection/fcos_R_50_FPN_1x.yaml \\
        --annotations instances_val2017.json
    fcos-rpn analyze --config-file configs/custom/fcos_mobilenet_v2.yaml --annotations mine.json \\
        --suggest mine.yaml
    fcos-rpn analyze --config-file COCO-Detection/retinanet_R_50_FPN_1x.yaml --annotations mine.json
"""

import argparse
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.utils.logger import setup_logger

from ..analysis import BOX_CONVENTIONS, Analysis, analyze, read_boxes
from ..analysis.report import figures_table, unlearned_ids, unlearned_table
from ..analysis.suggest import suggest, tiles_advice
from ..checkpoint.conversion import config_text
from ..config import read_config
from ..errors import UserError, write_whole
from ..evaluation import write_results
from ..model_zoo import find_config
from .arguments import command_parser


def build_argument_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("--annotations", required=True, type=Path, metavar="JSON", help="in COCO's instances format")
    parser.add_argument(
        "--box-convention",
        choices=BOX_CONVENTIONS,
        default="modern",
        help="boxes end at x + width (modern, as in training; default) or, as in the paper's tables 1 and 2, at "
        "x + width - 1 (legacy)",
    )
    parser.add_argument("--output", type=Path, metavar="JSON", help="write all figures here, with every unlearned box")
    parser.add_argument(
        "--suggest",
        type=Path,
        metavar="YAML",
        help="for FCOS and FCOSRPN: search input size, pyramid and ranges that leave fewer boxes unlearned and fewer "
        "locations ambiguous, write them here as a config, and analyze again with it",
    )
    parser.add_argument(
        "--max-cost",
        type=float,
        default=4.0,
        metavar="FACTOR",
        help="of --suggest: how many times the locations of the given config there may be; 1 changes the ranges only "
        "(default: %(default)s)",
    )
    return parser


def print_analyses(analyses: dict[str, Analysis]) -> None:
    print(f"\n{figures_table(analyses)}\n\n{unlearned_table(analyses)}")
    for title, analysis in analyses.items():
        if analysis.unlearned_boxes:
            print(f"\n{title}: {unlearned_ids(analysis)}")


def write_suggestion(path: Path, base: Path, changes: dict[str, Any], before: Analysis, after: Analysis) -> None:
    """Write a config that changes some keys of another one, with both analyses in the comment at its top."""
    comment = f"# Suggested by fcos-rpn analyze for {before.num_images:,} images, {before.num_boxes:,} boxes.\n"
    for title, form, was, now in (
        ("boxes that nothing learns, %", ".2f", before.unlearned, after.unlearned),
        ("ambiguous positives, %", ".2f", before.ambiguous, after.ambiguous),
        ("locations an image", ",.0f", before.samples_per_image.mean, after.samples_per_image.mean),
    ):
        comment += f"# {title}: {was:{form}} before, {now:{form}} now\n"
    text = config_text(changes, comment=comment, base=os.path.relpath(base.resolve(), path.resolve().parent))
    with write_whole(path) as file:
        file.write(text.encode())


def main(arguments: Sequence[str] | None = None) -> None:
    args = build_argument_parser().parse_args(arguments)
    setup_logger(name="fcos_rpn", abbrev_name="fcos_rpn")  # shows what of the annotations is repaired
    base = find_config(args.config_file)
    if args.suggest and args.suggest.resolve() == base.resolve():
        raise UserError(f"--suggest {args.suggest}: the suggestion builds on this very config; name another file")
    cfg = read_config(base, args.opts)
    annotations = read_boxes(args.annotations)
    settings: dict[str, Any] = {"box_convention": args.box_convention, "show_progress": True}
    analyses = {"given": analyze(cfg, annotations, **settings)}

    if args.suggest:
        before = analyses["given"]
        changes = suggest(cfg, annotations, max_cost=args.max_cost, **settings)
        if changes:
            overridden = {key: functools.reduce(getattr, key.split("."), cfg) for key in args.opts[::2]}
            changes = overridden | changes
            overrides = [text for key, value in changes.items() for text in (key, str(value))]
            analyses["suggested"] = analyze(read_config(base, overrides), annotations, **settings)
            write_suggestion(args.suggest, base, changes, before, analyses["suggested"])

    print_analyses(analyses)
    if "suggested" in analyses:
        print(f"\n{args.suggest}: the suggested config; train with fcos-rpn train --config-file {args.suggest}")
    elif args.suggest:
        print(f"\nNothing that was tried is worth a change; {args.suggest} was not written.")
    is_rest_unlearned = args.suggest and analyses.get("suggested", analyses["given"]).unlearned_boxes
    if is_rest_unlearned and (advice := tiles_advice(cfg, annotations)):
        print(advice)
    if args.output:
        given = analyses.pop("given").to_json() | {"box_convention": args.box_convention}
        write_results(args.output, given | {title: analysis.to_json() for title, analysis in analyses.items()})
