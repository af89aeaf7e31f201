import json
import math

import pytest
from detectron2.utils.events import EventStorage

from fcos_rpn.evaluation import StrictJSONWriter, results_table, write_results


def test_results_table():
    figures = {
        "bbox": {"AP": 12.345, "APs": math.nan, "AP-cat": 1.0},
        "box_proposals": {"AR@100": 50.0},
    }
    header, _, *rows = results_table(figures).splitlines()
    assert header.split() == ["bbox", "box_proposals"]
    assert [row.split() for row in rows] == [["AP", "12.35"], ["APs", "-"], ["AR@100", "50.00"]]
    assert all(len(row) == len(header) for row in rows[2:])  # the last column's figure stands under its name


def test_results_json_is_strict(tmp_path):
    path = tmp_path / "output" / "results.json"
    write_results(path, {"bbox": {"AP": 12.5, "APs": math.nan, "APm": -math.inf}, "digits": {"bbox": {"AP": 1}}})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "bbox": {"AP": 12.5, "APs": None, "APm": None},
        "digits": {"bbox": {"AP": 1.0}},
    }


def test_every_line_of_the_training_log_is_json(tmp_path):
    path = tmp_path / "metrics.json"
    writer = StrictJSONWriter(str(path))
    with EventStorage() as storage:
        for iteration, loss in enumerate([1.5, math.nan, -math.inf]):
            storage.iter = iteration
            storage.put_scalar("loss", loss, smoothing_hint=False)
            if iteration != 1:
                writer.write()
        writer.write()  # nothing is new
    writer.close()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert lines == [{"iteration": 0, "loss": 1.5}, {"iteration": 2, "loss": None}]
