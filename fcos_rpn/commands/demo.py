"""Draw what a trained model finds in pictures: its detections, proposals or centerness. Writes detections in COCO's
format, too. Needs no screen.

Examples:
    fcos-rpn demo --config-file output/mine/config.yaml --weights output/mine/model_final.pth \\
        --input holiday.jpg photos 'more/**/*.png' --output output/demo
    fcos-rpn demo --config-file output/mine/config.yaml --weights output/mine/model_final.pth \\
        --input photos --class-thresh person=0.3 dog=0.6 --json output/demo/detections.json --centerness
"""

import argparse
import glob
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ..config import read_config
from ..errors import UserError, make_folder
from ..evaluation import write_results
from ..model_zoo import find_config
from ..predictor import Predictor, read_rgb
from ..visualization import draw_centerness, draw_detections, draw_proposals
from .arguments import add_class_name_arguments, command_parser, given_class_names

WHEN_STOPPED = "stopped; what was found until then is written"


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole job, top-down."""
    args = build_argument_parser().parse_args(arguments)
    files = find_pictures(args.input)
    predictor = load_predictor(args)
    least_scores = least_score_of_classes(args.score_thresh, args.class_thresh, predictor.class_names)
    require_other_folder(args.output, files)
    make_folder(args.output)
    report = CocoReport(args.json, predictor.class_names) if args.json else None

    num_skipped = 0
    try:
        for image_id, (name, file) in enumerate(tqdm(named(files), unit="image"), start=1):
            try:
                image = read_rgb(file)
            except UserError as error:
                num_skipped += 1
                tqdm.write(f"skipped: {error}", file=sys.stderr)
                continue
            if predictor.detects:
                found = predictor(image)
                found = found[found.scores >= least_scores[found.pred_classes]]
                picture = draw_detections(
                    image, found, None, predictor.class_names, score_thresh=float(least_scores.min())
                )
                save(picture, args.output / f"{name}_detections.png")
                if report is not None:
                    report.add(image_id, file, found)
            if args.proposals:
                proposals = predictor.proposals(image, limit=args.proposals)
                picture = draw_proposals(image, proposals, None, limit=args.proposals)
                save(picture, args.output / f"{name}_proposals.png")
            if args.centerness:
                save(draw_centerness(*predictor.dense_predictions(image)), args.output / f"{name}_centerness.png")
    finally:  # also of those before an interruption
        if report is not None:
            report.write()
    if num_skipped == len(files):
        raise UserError(f"none of the {len(files)} pictures could be read")
    print(f"Drawn: {len(files) - num_skipped}, skipped: {num_skipped}. Pictures: {args.output}/*.png")
    if report is not None:
        print(f"Detections: {len(report.detections)} in {report.file}; what their ids stand for: {report.table_file}")


def build_argument_parser() -> argparse.ArgumentParser:
    about_overrides = "overrides of the config; behind --input or --class-thresh put -- first"
    parser = command_parser(__doc__, has_weights=True, output="output/demo", overrides=about_overrides)
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="PICTURES",
        help="picture files, folders of pictures (without the folders in them), or patterns such as 'photos/**/*.jpg'",
    )
    parser.add_argument(
        "--proposals", type=positive_number, metavar="N", help="draw the best N boxes of the proposal generator, too"
    )
    parser.add_argument(
        "--centerness", action="store_true", help="draw class probability, centerness and score of each level, too"
    )
    parser.add_argument(
        "--score-thresh",
        type=probability,
        default=0.5,
        metavar="SCORE",
        help="leave out detections of a lower score; default: %(default)s. What the model itself leaves out is "
        "MODEL.FCOS.SCORE_THRESH_TEST, or MODEL.ROI_HEADS.SCORE_THRESH_TEST for an R-CNN",
    )
    parser.add_argument(
        "--class-thresh", nargs="+", action="extend", default=[], metavar="CLASS=SCORE", help="of single classes"
    )
    add_class_name_arguments(parser, default="those in the checkpoint")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the detections in COCO's format, and file names and classes by id to FILE's name with _images",
    )
    return parser


def positive_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return number


def probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a score from 0 to 1")
    return value


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """List the picture files, each once, in the order of the arguments and by name within a folder.

    Raises:
        UserError: if there is no such file, folder or match, or a folder has no pictures.
    """
    return list(dict.fromkeys(file for given in inputs for file in _pictures_of(given)))


def _pictures_of(given: str) -> list[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in suffixes)
        if not files:
            raise UserError(f"--input {given}: this folder has no picture; sub-folders are not searched")
        return files
    if path.is_file():
        return [path]
    matches = sorted(match for match in map(Path, glob.glob(str(path), recursive=True)) if match.is_file())
    if not matches:
        raise UserError(
            f"--input {given}: there is no such file or folder, and no file matches it as a pattern; put -- before "
            "config overrides that follow --input"
        )
    return matches


def require_other_folder(output: Path, files: Sequence[Path]) -> None:
    """Raise a UserError if the output is a folder of the input, so that no picture of the input is overwritten."""
    if output.resolve() in {file.resolve().parent for file in files}:
        raise UserError(f"--output {output} is a folder of --input, whose pictures could be overwritten: name another")


def named(files: Sequence[Path]) -> list[tuple[str, Path]]:
    """Give each file a unique name for its output: its stem, with a number where others have the same."""
    by_name: dict[str, Path] = {}
    for file in files:
        names = (file.stem, *(f"{file.stem}_{number}" for number in range(2, len(files) + 1)))
        by_name[next(name for name in names if name not in by_name)] = file
    return list(by_name.items())


def load_predictor(args: argparse.Namespace) -> Predictor:
    """Build the model with its weights, or raise a UserError if it cannot do what is asked for."""
    overrides = args.opts[1:] if args.opts[:1] == ["--"] else args.opts
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = read_config(find_config(args.config_file), ["MODEL.DEVICE", device, *overrides])
    names = given_class_names(args)
    predictor = Predictor(cfg, weights=args.weights, device=cfg.MODEL.DEVICE, class_names=names)
    if args.proposals:
        predictor.require_proposal_generator()
    if args.centerness:
        predictor.require_fcos()
    if args.json or not (args.proposals or args.centerness):
        predictor.require_detector()
    return predictor


def least_score_of_classes(default: float, given: Iterable[str], names: Sequence[str]) -> torch.Tensor:
    """Return (C,) the least score of each class to show.

    Raises:
        UserError: if one is not CLASS=SCORE, or there is no such class.
    """
    scores = torch.full((len(names),), default)
    for pair in given:
        name, equals, text = pair.rpartition("=")
        try:
            score = probability(text)
        except (ValueError, argparse.ArgumentTypeError):
            equals = ""
        if not equals:
            raise UserError(
                f"--class-thresh {pair}: must be CLASS=SCORE with a score from 0 to 1, such as {names[0]}=0.3; put -- "
                "before config overrides that follow it"
            )
        if name not in names:
            raise UserError(f"--class-thresh {pair}: the model has no class {name!r}; it has {', '.join(names)}")
        scores[[label for label, other in enumerate(names) if other == name]] = score
    return scores


def save(picture: NDArray[Any], file: Path) -> None:
    """Write a picture, or raise a UserError if it cannot be written."""
    try:
        Image.fromarray(picture).save(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from error


class CocoReport:
    """Detections in COCO's results format, and a table of their image and category ids."""

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        """
        Args:
            file: where the detections go; the table goes beside it.
            names: of the classes; the category id of a label is the label + 1.
        """
        self.file = file
        self.table_file = file.with_name(f"{file.stem}_images.json")
        self.detections: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.categories: list[Any] = [{"id": label, "name": name} for label, name in enumerate(names, start=1)]
        self.write()  # so that a folder without write access does not cost the work

    def add(self, image_id: int, file: Path, found: Instances) -> None:
        height, width = found.image_size
        self.images.append({"id": image_id, "file_name": str(file), "width": width, "height": height})
        for detection in instances_to_coco_json(found, image_id):
            self.detections.append({**detection, "category_id": detection["category_id"] + 1})

    def write(self) -> None:
        write_results(self.file, self.detections)
        write_results(self.table_file, {"images": self.images, "categories": self.categories})
