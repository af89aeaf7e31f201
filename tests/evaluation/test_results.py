import json
import math

import pytest

from fcos_rpn.evaluation import results_table, write_results


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
    write_results(path, {"bbox": {"AP": 12.5, "APs": math.nan}, "digits": {"bbox": {"AP": 1}}})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "bbox": {"AP": 12.5, "APs": None},
        "digits": {"bbox": {"AP": 1.0}},
    }
