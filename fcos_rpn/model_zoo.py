"""The packaged configs by name, YAML and LazyConfigs, as `detectron2.model_zoo` does it."""

import contextlib
from pathlib import Path

from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import CfgNode, LazyConfig
from omegaconf import DictConfig

from .config import read_config
from .errors import UserError


def get_config_file(config_path: str) -> str:
    """The file of a packaged config, such as "COCO-Detection/fcos_R_50_FPN_1x.yaml" or "lazy/fcos_R_50_FPN_1x.py".

    Raises:
        UserError: if there is none of that name; lists those there are.
    """
    package = Path(__file__).parent
    # Installed, the configs lie inside the package; in a checkout, beside it.
    folder = next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())
    if not (folder / config_path).is_file():
        files = [*folder.rglob("*.yaml"), *folder.glob("lazy/*.py")]
        known = "\n  ".join(sorted(str(path.relative_to(folder)) for path in files))
        raise UserError(f"no packaged config {config_path}. There are:\n  {known}")
    return str(folder / config_path)


def get_config(config_path: str) -> CfgNode | DictConfig:
    """A packaged config: YAML merged into Detectron2's defaults and this package's; or a LazyConfig, all of it."""
    if config_path.endswith(".py"):
        return LazyConfig.load(get_config_file(config_path))
    return read_config(get_config_file(config_path))


def find_config(name: str) -> Path:
    """A file, or one of this package's or Detectron2's configs by name.

    Raises:
        UserError: if there is none.
    """
    if not name:
        raise UserError("no config is given: name a file, or a packaged config, with --config-file")
    if Path(name).is_file():
        return Path(name)
    with contextlib.suppress(UserError):
        return Path(get_config_file(name))
    with contextlib.suppress(RuntimeError):
        return Path(detectron2_model_zoo.get_config_file(name))
    raise UserError(f"no config file {name}, and neither this package nor Detectron2 has one of that name")
