"""The packaged configs by name, YAML and LazyConfigs, as `detectron2.model_zoo` does it."""

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig

from .config import add_fcos_config, merge_file
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
    cfg = get_cfg()
    add_fcos_config(cfg)
    merge_file(cfg, get_config_file(config_path))
    return cfg
