import argparse
import json

import pytest
from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_rpn import UserError
from fcos_rpn.commands.arguments import add_class_name_arguments, given_class_names
from fcos_rpn.config import read_config
from fcos_rpn.errors import make_folder, user_errors_as_messages
from fcos_rpn.model_zoo import find_config


@pytest.mark.parametrize("name", ["COCO-Detection/fcos_R_50_FPN_1x.yaml", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"])
def test_configs_by_name(name):
    path = find_config(name)
    assert path.is_file()
    assert read_config(path, ["MODEL.FCOS.NUM_CONVS", "1"]).MODEL.FCOS.NUM_CONVS == 1


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("VERSION: 2\n")
    assert find_config("mine.yaml").resolve() == tmp_path / "mine.yaml"
    with pytest.raises(UserError, match=r"no config file other\.yaml, and neither"):
        find_config("other.yaml")


def test_only_detectron2s_own_configs_may_hold_code(tmp_path):
    own = tmp_path / "own.yaml"
    base = find_config(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")).parents[1]
    own.write_text((base / "Base-RetinaNet.yaml").read_text())
    with pytest.raises(UserError, match="cannot read config file"):
        read_config(own, [])


def test_parts_that_nobody_registered_are_named(tmp_path):
    (tmp_path / "mine.yaml").write_text("VERSION: 2\n")
    with pytest.raises(UserError, match=r"MODEL\.PROPOSAL_GENERATOR\.NAME: there is no 'FCOSRNP'"):
        read_config(tmp_path / "mine.yaml", ["MODEL.PROPOSAL_GENERATOR.NAME", "FCOSRNP"])


def test_class_names_from_a_text_a_json_and_a_data_set(tmp_path, detectron2_restored):
    (tmp_path / "names.txt").write_text("cat\n\n hot dog \n")
    categories = [{"id": 7, "name": "hot dog"}, {"id": 3, "name": "cat"}]  # labels follow the ids
    (tmp_path / "names.json").write_text(json.dumps({"categories": categories}))
    DatasetCatalog.register("pets", list)
    MetadataCatalog.get("pets").thing_classes = ["cat", "hot dog"]
    parser = argparse.ArgumentParser()
    add_class_name_arguments(parser, default="none")
    for given in (
        ["--class-names", f"{tmp_path}/names.txt"],
        ["--class-names", f"{tmp_path}/names.json"],
        ["--dataset", "pets"],
    ):
        assert given_class_names(parser.parse_args(given)) == ["cat", "hot dog"]
    assert given_class_names(parser.parse_args([])) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    make_folder(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    with pytest.raises(UserError, match="file: cannot be made or written"):
        make_folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("raised", "message"), [(UserError("no such file"), "error: no such file"), (KeyboardInterrupt(), "\ngo on later")]
)
def test_tools_end_with_one_message(raised, message):
    with pytest.raises(SystemExit) as ended, user_errors_as_messages(when_stopped="go on later"):
        raise raised
    assert ended.value.code == message
