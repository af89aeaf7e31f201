import json

import pytest

from dev.benchmark.measuring import Comparison, Measurement, Setup
from dev.benchmark.report import Report, growth_table


@pytest.fixture
def report():
    report = Report("loss", Setup(is_quick=True))
    measurements = {
        "fcos_rpn": Measurement(0.2, 0.01, 30.0, 3),
        "fcos_rpn, optimized": Measurement(0.1, 0.01, None, 3),
        "peer": Measurement(0.4, 0.02, 60.0, 3),
        "floor": Measurement(0.08, 0.0, 0.0, 3),
    }
    report.add(Comparison({"batch": 2}, {}), measurements)
    return report


def test_ratios_are_ours_over_the_peers(report, tmp_path):
    report.write(tmp_path)
    content = json.loads((tmp_path / "loss.json").read_text())
    assert content["subject"] == "loss"
    assert content["environment"]["quick"] is True
    ours, optimized, peer, floor = content["rows"]
    assert ours["case"] == "fcos_rpn"
    assert ours["batch"] == 2
    assert ours["ratio_to_peer"] == 0.5
    assert ours["memory_ratio_to_peer"] == 0.5
    assert ours["ratio_to_floor"] == 2.5
    assert ours["memory_ratio_to_floor"] is None  # it holds nothing
    assert optimized["ratio_to_peer"] == 0.25
    assert optimized["memory_ratio_to_peer"] is None
    assert not any("ratio" in key for row in (peer, floor) for key in row)


def test_table(report):
    header, _, ours, optimized, peer, floor = report.table().splitlines()
    assert header.split() == ["batch", "case", "ms", "±", "MiB", "/", "peer", "/", "floor"]
    assert ours.split() == ["2", "fcos_rpn", "200.0", "10.0", "30.0", "0.50,", "0.50", "2.50,", "-"]
    assert optimized.split() == ["2", "fcos_rpn,", "optimized", "100.0", "10.0", "-", "0.25,", "-", "1.25,", "-"]
    assert peer.split() == ["2", "peer", "400.0", "20.0", "60.0"]
    assert floor.split() == ["2", "floor", "80.0", "0.0", "0.0"]


def test_growth():
    report = Report("growth", Setup())
    # Seconds are proportional to the pixels and do not depend on the boxes; one memory is unknown, the other zero.
    for against, exponent, mib in (("pixels", 1, None), ("boxes", 0, 0.0)):
        measurements = {str(value): Measurement(0.1 * value**exponent, 0.0, mib, 3) for value in (10, 100)}
        report.add(Comparison({"step": "assign", "against": against}, {}), measurements)
    header, _, row = growth_table(report).splitlines()
    assert header.split() == ["slope", "of", "time,", "memory", "pixels", "boxes"]
    assert row.split() == ["assign", "1.00,", "-", "0.00,", "-"]
