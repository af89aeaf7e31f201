"""Build coco_mini320, the small data set of docs/results.md, from COCO val2017.

Example:
    python -m dev.build_coco_mini --images coco/val2017 --annotations coco/annotations/instances_val2017.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dev.experiment.coco_mini import build_coco_mini
from fcos_rpn.errors import user_errors_as_messages


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="the folder val2017")
    parser.add_argument("--annotations", type=Path, required=True, help="its instances_val2017.json")
    parser.add_argument("--output", type=Path, default=Path("output/coco_mini320"), help="default: %(default)s")
    args = parser.parse_args(arguments)
    build_coco_mini(args.images, args.annotations, args.output)
    print(f"{args.output}: images, instances_{{train,val}}.json, persons_{{train,val}}.json")


if __name__ == "__main__":
    with user_errors_as_messages(when_stopped="stopped; rerun the command to continue"):
        main()
