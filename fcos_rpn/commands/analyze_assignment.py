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
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils.logger import setup_logger

from ..analysis import BOX_CONVENTIONS, Analysis, analyze, read_boxes
from ..analysis.report import figures_table, unlearned_ids, unlearned_table
from ..analysis.suggest import suggest
from ..config import read_config
from ..errors import UserError, write_whole
from ..model_zoo import find_config


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a YAML, or the name of one of this package or Detectron2"
    )
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
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser


def print_analyses(analyses: dict[str, Analysis]) -> None:
    print(f"\n{figures_table(analyses)}\n\n{unlearned_table(analyses)}")
    for title, analysis in analyses.items():
        if analysis.unlearned_boxes:
            print(f"\n{title}: {unlearned_ids(analysis)}")


def suggested_config(path: Path, base: Path, changes: dict[str, Any], before: Analysis, after: Analysis | None) -> str:
    """Format a config that changes some keys of another one.

    Args:
        path: where it will be; `base` is named relative to it.
        base: the config that it changes.
        changes: key -> value.
        before, after: analyses for the comment at its top; `after` is None before the new config is analyzed.
    """
    nested: dict[str, Any] = {"_BASE_": os.path.relpath(base.resolve(), path.resolve().parent)}
    for key, value in changes.items():
        *groups, name = key.split(".")
        node = nested
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = list(value) if isinstance(value, list | tuple) else value  # a copy, else YAML writes an alias
    comment = f"# Suggested by fcos-rpn analyze for {before.num_images:,} images, {before.num_boxes:,} boxes.\n"
    if after:
        comment += "".join(
            f"# {title}: {was:{form}} before, {now:{form}} now\n"
            for title, form, was, now in (
                ("boxes that nothing learns, %", ".2f", before.unlearned, after.unlearned),
                ("ambiguous positives, %", ".2f", before.ambiguous, after.ambiguous),
                ("locations an image", ",.0f", before.samples_per_image.mean, after.samples_per_image.mean),
            )
        )
    return comment + yaml.safe_dump(nested, default_flow_style=None, sort_keys=False, width=1000)


def write_text(path: Path, text: str) -> None:
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
            write_text(args.suggest, suggested_config(args.suggest, base, changes, before, None))
            after = analyze(read_config(args.suggest, []), annotations, **settings)
            write_text(args.suggest, suggested_config(args.suggest, base, changes, before, after))
            analyses["suggested"] = after

    print_analyses(analyses)
    if "suggested" in analyses:
        print(f"\n{args.suggest}: the suggested config; train with fcos-rpn train --config-file {args.suggest}")
    elif args.suggest:
        print(f"\nNothing that was tried is worth a change; {args.suggest} was not written.")
    if args.output:
        given = analyses.pop("given").to_json() | {"box_convention": args.box_convention}
        content = given | {title: analysis.to_json() for title, analysis in analyses.items()}
        write_text(args.output, json.dumps(content, indent=1))
