import argparse
import json

from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_rpn.commands.arguments import add_class_name_arguments, given_class_names


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
