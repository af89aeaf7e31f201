"""Convert a checkpoint of another FCOS implementation, or of this one's other role, and write the config that fits it.

Every weight of the file is used or named as dropped, every weight of the model is filled, every shape is checked.
FCOSRPN has one class, so its class layer cannot be converted: it is initialized as in a new model. Class names are
written if the file has them or you give them; they are never guessed.

Examples:
    fcos-rpn convert --source torchvision --target FCOS --dataset coco_2017_val --write-config fcos.yaml \\
        theirs.pth fcos.pth
    fcos-rpn convert --source original --recipe improved --target FCOSRPN --write-config rpn.yaml \\
        theirs.pth rpn.pth
    fcos-rpn convert --source fcos_rpn --config-file output/mine/config.yaml --target FCOSRPN \\
        --write-config rpn.yaml output/mine/model_final.pth rpn.pth
"""

import argparse
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checkpoint import read_checkpoint
from ..checkpoint.conversion import (
    OWN,
    RECIPES,
    SOURCES,
    TARGETS,
    Conversion,
    config_text,
    convert_state_dict,
    write_weights,
)
from ..config import read_config
from ..errors import UserError, write_whole
from ..model_zoo import find_config
from .arguments import add_class_name_arguments, given_class_names

CLASS_LAYER = "core.head.cls_logits.weight"


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, choices=SOURCES, help="the implementation that IN comes from")
    parser.add_argument("--target", required=True, choices=TARGETS, help="the role that OUT is for")
    parser.add_argument(
        "--recipe",
        choices=sorted({name for recipes in RECIPES.values() for name in recipes}),
        help="for original and mmdetection, from whose weights it cannot be read: plain (exp, centerness on the "
        "classification tower) or improved (relu, centerness on the box tower)",
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help=f"the config that IN was trained with; for source {OWN}, which needs it"
    )
    parser.add_argument("--write-config", type=Path, metavar="YAML", help="write the config that fits OUT here")
    add_class_name_arguments(parser, default="those in IN, if it carries any")
    parser.add_argument("input", type=Path, metavar="IN", help="a .pth, .pkl or .safetensors")
    parser.add_argument("output", type=Path, metavar="OUT", help="a .pth")
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="change the config, where IN was not trained as its source does by default",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args = build_argument_parser().parse_intermixed_args(arguments)
    if args.output.suffix != ".pth":
        raise UserError(f"OUT {args.output}: give it the ending .pth, the format that is written")
    written = [path.resolve() for path in (args.output, args.write_config) if path]
    base = find_config(args.config_file) if args.config_file else None
    for path in (args.input, base):
        if path and path.resolve() in written:
            raise UserError(f"{path} would be overwritten: name another file")
    given_names = given_class_names(args)

    checkpoint = read_checkpoint(str(args.input))
    try:
        conversion = convert_state_dict(
            checkpoint.weights,
            source=args.source,
            target=args.target,
            recipe=args.recipe,
            cfg=read_config(base, args.opts) if base else None,
            overrides=args.opts,
        )
    except UserError as error:
        raise UserError(f"{args.input}: {error}") from error

    class_names = names_of_classes(given_names, conversion, checkpoint.class_names)
    write_weights(args.output, conversion.weights, class_names=class_names)
    print(account(conversion, len(checkpoint.weights)))
    if others := [name for name in checkpoint.others if name != "class_names" or checkpoint.class_names is None]:
        print(f"Not a weight, and left out: {', '.join(others)}")
    print(f"{args.output}: {len(conversion.weights)} weights of {args.target}, {_shown(class_names)}")
    if args.write_config:
        write_config(args.write_config, conversion, args, base)
        print(
            f"{args.write_config}: its config. Evaluate with fcos-rpn train --config-file {args.write_config} "
            f"--eval-only MODEL.WEIGHTS {args.output}"
        )


def names_of_classes(given: list[str] | None, conversion: Conversion, of_file: list[str] | None) -> list[str] | None:
    """Return the given names, else those of the file if its class layer was converted, else None.

    Raises:
        UserError: if there are not as many as classes, or the model does not tell classes apart.
    """
    if CLASS_LAYER not in conversion.weights:
        if given is not None:
            raise UserError("FCOSRPN has one class for all objects: leave out --class-names and --dataset")
        return None
    names = of_file if given is None and CLASS_LAYER in conversion.origins else given
    num_classes = len(conversion.weights[CLASS_LAYER])
    if names is not None and len(names) != num_classes:
        raise UserError(
            f"there are {len(names)} class names ({', '.join(names[:5])}, ...), but the model has {num_classes} "
            "classes: give --class-names or --dataset with as many, in the order of the labels"
        )
    return names


def _shown(class_names: list[str] | None) -> str:
    return "no class names" if class_names is None else f"class names {', '.join(class_names)}"


def write_config(path: Path, conversion: Conversion, args: argparse.Namespace, base: Path | None) -> None:
    comment = f"# {args.target} for {args.output.name}, converted from {args.source} by fcos-rpn convert.\n"
    text = config_text(
        {**conversion.settings, "MODEL.WEIGHTS": str(args.output)},
        comment=comment,
        base=os.path.relpath(base.resolve(), path.resolve().parent) if base else None,
    )
    with write_whole(path) as file:
        file.write(text.encode())


def account(conversion: Conversion, num_weights: int) -> str:
    """Say what became of every weight, and which settings were not read from the weights."""
    num_used = sum(map(len, conversion.origins.values()))
    lines = [f"{num_used} of {num_weights} weights used, {len(conversion.dropped)} dropped"]
    lines += _by_reason("Dropped", conversion.dropped)
    lines += _by_reason("Not in the file", conversion.filled)
    assumed = {key: value for key, value in conversion.settings.items() if key not in conversion.read_from_weights}
    lines += ["Settings that cannot be read from the weights (change with KEY VALUE):"]
    lines += [f"  {key} {value}" for key, value in sorted(assumed.items())]
    return "\n".join(lines)


def _by_reason(title: str, reasons: Mapping[str, str]) -> list[str]:
    keys: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        keys.setdefault(reason, []).append(key)
    return [
        line
        for reason, names in keys.items()
        for line in (
            f"{title}, {len(names)}: {reason}",
            textwrap.fill(", ".join(names), width=110, initial_indent="  ", subsequent_indent="  "),
        )
    ]
