"""Build coco_mini320, the small set of docs/results.md, from COCO val2017: the same images in the same order.

Example:
    python -m dev.build_coco_mini --images coco/val2017 --annotations coco/annotations/instances_val2017.json
"""

import argparse
from pathlib import Path

from dev.experiment.coco_mini import build_coco_mini
from fcos_rpn.errors import user_errors_as_messages


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="the folder val2017")
    parser.add_argument("--annotations", type=Path, required=True, help="its instances_val2017.json")
    parser.add_argument("--output", type=Path, default=Path("output/coco_mini320"), help="default: %(default)s")
    return parser


def main(args: argparse.Namespace) -> None:
    build_coco_mini(args.images, args.annotations, args.output)
    print(f"{args.output}: images, instances_{{train,val}}.json, persons_{{train,val}}.json")


if __name__ == "__main__":
    with user_errors_as_messages(when_stopped="stopped; the same command goes on where it was"):
        main(build_argument_parser().parse_args())
