import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from fcos_rpn import UserError, commands
from fcos_rpn.model_zoo import get_config, get_config_file
from tests.tiny import write_coco_folder

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml"))
LAZY_CONFIGS = sorted(f"lazy/{path.name}" for path in (ROOT / "configs" / "lazy").glob("*.py"))
COMMON = sorted(f"lazy/common/{path.name}" for path in (ROOT / "configs" / "lazy" / "common").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_found_by_its_name(name):
    assert Path(get_config_file(name)).samefile(ROOT / "configs" / name)
    assert get_config(name).MODEL.FCOS


@pytest.mark.parametrize("name", LAZY_CONFIGS)
def test_every_lazy_config_is_found_by_its_name(name):
    assert Path(get_config_file(name)).samefile(ROOT / "configs" / name)
    assert get_config(name).keys() == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}


def test_config_is_merged_with_its_base():
    cfg = get_config("COCO-Detection/fcos_rpn_R_50_FPN_1x.yaml")
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME) == ("BatchedProposalNetwork", "FCOSRPN")


@pytest.mark.parametrize("name", ["fcos_R_50_FPN_1x.yaml", "COCO-Detection", ""])
def test_other_names_list_those_there_are(name):
    with pytest.raises(UserError) as error:
        get_config(name)
    first, *names = str(error.value).splitlines()
    assert first == f"no packaged config {name}. There are:"
    assert [name.strip() for name in names] == sorted([*CONFIGS, *LAZY_CONFIGS])


def test_setup_needs_neither_torch_nor_detectron2():
    code = """
import runpy, sys
sys.modules.update(torch=None, detectron2=None)  # importing them fails
sys.argv = ["setup.py", "--version"]
runpy.run_path("setup.py")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "0.1.0"), done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What a wheel of a copy of the repository installs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("fcos_rpn", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


def test_wheel_holds_all_modules_and_configs_and_nothing_else(installed):
    here = {path.relative_to(ROOT) for path in (ROOT / "fcos_rpn").rglob("*.py")} | {Path("fcos_rpn/py.typed")}
    here |= {Path("fcos_rpn", "configs", name) for name in [*CONFIGS, *LAZY_CONFIGS, *COMMON]}
    there = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert {path for path in there if not path.parts[0].endswith(".dist-info")} == here


def test_wheel_works_in_an_empty_folder(installed, tmp_path):
    """The configs, and the console script with one of them by its name."""
    code = f"""
import importlib.metadata, json, sys, fcos_rpn.model_zoo as zoo
architectures = [zoo.get_config(name).MODEL.META_ARCHITECTURE for name in {CONFIGS}]
roles = [zoo.get_config(name).model._target_.__name__ for name in {LAZY_CONFIGS}]
print(json.dumps([zoo.__file__, architectures, roles]))
(script,) = importlib.metadata.distribution("fcos_rpn").entry_points.select(name="fcos-rpn")
script.load()()
"""
    write_coco_folder(tmp_path / "coco")
    analysis = ["analyze", "--config-file", "custom/fcos_mobilenet_v2.yaml", "--annotations", "coco/instances.json"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-W", "ignore", "-c", code, *analysis]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, *printed = done.stdout.splitlines()
    module, architectures, roles = json.loads(found)
    assert Path(module).is_relative_to(installed)
    assert architectures == [get_config(name).MODEL.META_ARCHITECTURE for name in CONFIGS]
    assert roles == ["GeneralizedRCNNWithProposals", "FCOS", "BatchedProposalNetwork"]
    assert "best possible recall" in "\n".join(printed).lower()


def test_the_console_script_lists_the_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fcos-rpn", "--help"])
    commands.main()
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in commands.COMMANDS)
    monkeypatch.setattr(sys, "argv", ["fcos-rpn", "trian"])
    with pytest.raises(SystemExit, match="there is no command 'trian'; choose one of quickstart, check, "):
        commands.main()
