import argparse
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_rpn import UserError
from fcos_rpn.commands.arguments import add_class_name_arguments, given_class_names


@pytest.fixture
def names(tmp_path, detectron2_restored, monkeypatch):
    """Gives the class names that the command line asks for, from files of the working folder and the data set pets."""
    monkeypatch.chdir(tmp_path)
    DatasetCatalog.register("pets", list)
    MetadataCatalog.get("pets").thing_classes = ["cat", "hot dog"]
    parser = argparse.ArgumentParser()
    add_class_name_arguments(parser, default="none")
    return lambda *given: given_class_names(parser.parse_args(given))


def test_class_names_from_a_text_a_json_and_a_data_set(tmp_path, names):
    (tmp_path / "names.txt").write_text("cat\n\n hot dog \n")
    categories = [{"id": 7, "name": "hot dog"}, {"id": 3, "name": "cat"}]  # labels follow the ids
    (tmp_path / "names.json").write_text(json.dumps({"categories": categories}))
    for given in (("--class-names", "names.txt"), ("--class-names", "names.json"), ("--dataset", "pets")):
        assert names(*given) == ["cat", "hot dog"]
    assert names() is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, r"cannot be read \(No such file"), (b"\xff\xfe\x00", "neither text"), (b"\n", "there is no name in it")],
)
def test_mistakes(tmp_path, names, content, expected):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"--class-names names\.txt: {expected}"):
        names("--class-names", "names.txt")
