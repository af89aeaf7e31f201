"""Command-line arguments that several commands take, and what they stand for."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..checkpoint import FCOSCheckpointer
from ..config import read_config
from ..data import class_names
from ..engine.setup import use_datasets
from ..errors import UserError
from ..model_zoo import find_config


def command_parser(
    about: str | None,
    *,
    has_config: bool = True,
    has_weights: bool = False,
    output: str | None = None,
    overrides: str | None = "overrides of the config",
) -> argparse.ArgumentParser:
    """Build a parser with the arguments that most commands have.

    Args:
        about: the command's docstring, which the help shows as it is.
        output: the default of `--output`, a folder.
        overrides: the help of what is left on the command line; with None nothing may be left.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if has_config:
        about_config = "a file, or the name of a config of this package or Detectron2"
        parser.add_argument("--config-file", required=True, metavar="YAML", help=about_config)
    if has_weights:
        parser.add_argument("--weights", required=True, metavar="FILE", help="a checkpoint of the model")
    if output:
        parser.add_argument("--output", type=Path, default=Path(output), metavar="FOLDER", help="default: %(default)s")
    if overrides:
        parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=overrides)
    return parser


def config_with_test_set(
    config: str, overrides: Sequence[str], *, images: str, annotations: str, output: Path
) -> CfgNode:
    """Read a config and its overrides, with a folder in COCO's format as the only data set.

    Raises:
        UserError: on a mistake in the config or the data.
    """
    cfg = read_config(find_config(config), overrides)
    cfg.DATASETS.TEST_FOLDERS = [[images, annotations]]
    cfg.OUTPUT_DIR = str(output)
    use_datasets(cfg, is_training=False)
    return cfg


def load_model(cfg: CfgNode, weights: str) -> Any:
    """Build a model in evaluation mode and load all of its weights."""
    model = build_model(cfg).eval()
    FCOSCheckpointer(model, require_all=True).load(weights)
    return model


def add_class_name_arguments(parser: argparse.ArgumentParser, *, default: str) -> None:
    """For `given_class_names`; the default is for the help, in words."""
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help=f"a text file with a name on each line, or a json in COCO's format; default: {default}",
    )
    names.add_argument("--dataset", metavar="NAME", help="a registered data set whose class names to take")


def given_class_names(args: argparse.Namespace) -> list[str] | None:
    """Those of `--class-names` or `--dataset`, the position is the label; None without either.

    Raises:
        UserError: if the file cannot be read or holds no names, or there is no such data set.
    """
    if args.dataset:
        return class_names([args.dataset])
    return _read_class_names(args.class_names) if args.class_names else None


def _read_class_names(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            categories = sorted(json.loads(text)["categories"], key=lambda category: category["id"])
            names = [str(category["name"]) for category in categories]
        else:
            names = [line.strip() for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"--class-names {file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--class-names {file}: neither text with a name on each line nor a json in COCO's format ({error!r})"
        ) from error
    if not names:
        raise UserError(f"--class-names {file}: there is no name in it")
    return names
