"""Names that mean harm: nothing is read or written outside. test_annotations and test_reading have wrong contents."""

import os
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_rpn.data import register_coco_folder
from tests.data.small_coco import small_coco, write_coco

pytestmark = pytest.mark.usefixtures("detectron2_restored")


def test_a_link_in_the_folder_may_lead_out(tmp_path):
    images, json_file = write_coco(tmp_path, small_coco())
    os.rename(images / "12.png", tmp_path / "elsewhere.png")
    (images / "12.png").symlink_to(tmp_path / "elsewhere.png")
    name = register_coco_folder(images, json_file, output_dir=tmp_path)
    assert DatasetCatalog.get(name)[1]["file_name"] == str(images / "12.png")


def test_names_with_paths_in_them_write_nothing_outside(tmp_path):
    folder = tmp_path / "data" / ".. ;$(touch trap) "
    content = small_coco()
    content["categories"][0]["name"] = "../../trap"
    del content["annotations"][0]["area"]  # so that a repaired json is written
    images, json_file = write_coco(folder, content)
    os.rename(images, folder / "..%2f..")
    os.rename(json_file, folder / "....json")
    before = {*tmp_path.rglob("*")}
    name = register_coco_folder(folder / "..%2f..", folder / "....json", output_dir=tmp_path / "output")
    written = {*tmp_path.rglob("*")} - before - {tmp_path / "output", tmp_path / "output" / "annotations"}
    assert [path.parent for path in written] == [tmp_path / "output" / "annotations"]
    assert Path(MetadataCatalog.get(name).json_file) in written
    assert os.sep not in name
