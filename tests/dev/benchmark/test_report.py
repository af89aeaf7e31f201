import json

import pytest

from dev.benchmark.measuring import Comparison, Measurement, Setup
from dev.benchmark.report import Report, growth_table, plot_growth, plot_times, slope


def nothing():
    pass


@pytest.fixture
def report():
    report = Report("loss", Setup(is_quick=True))
    cases = dict.fromkeys(["fcos_rpn", "fcos_rpn, optimized", "peer", "floor"], nothing)
    measurements = {
        "fcos_rpn": Measurement(0.2, 0.01, 30.0, 3),
        "fcos_rpn, optimized": Measurement(0.1, 0.01, None, 3),
        "peer": Measurement(0.4, 0.02, 60.0, 3),
        "floor": Measurement(0.08, 0.0, 0.0, 3),
    }
    report.add(Comparison({"batch": 2}, cases), measurements)
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


def test_plot_of_times(report):
    cases = dict.fromkeys(["fcos_rpn", "peer"], nothing)
    measurements = {"fcos_rpn": Measurement(0.3, 0.01, 3.0, 3), "peer": Measurement(0.9, 0.1, 3.0, 3)}
    report.add(Comparison({"batch": 16}, cases), measurements)
    figure = plot_times(report)
    of_two, of_sixteen = figure.axes
    assert (of_two.get_title(loc="left"), of_sixteen.get_title(loc="left")) == ("batch 2", "batch 16")
    assert [bar.get_width() for bar in of_two.patches] == pytest.approx([200, 100, 400, 80])  # ms
    assert [label.get_text() for label in of_two.get_yticklabels()][:2] == ["fcos_rpn", "fcos_rpn, optimized"]
    assert [text.get_text() for text in of_two.texts] == ["1", "0.5", "2", "0.4"]
    assert [text.get_text() for text in of_sixteen.texts] == ["1", "3"]


def test_slope_is_the_exponent():
    assert slope([1, 10, 100], [3, 300, 30000]) == pytest.approx(2)
    assert slope([2, 4, 8], [5, 5, 5]) == pytest.approx(0)
    assert slope([1, 2], [0.0, 1.0]) is None
    assert slope([1, 2], [None, 1.0]) is None


def test_growth():
    report = Report("growth", Setup())
    for against, exponent in (("pixels", 1), ("boxes", 0)):
        cases = dict.fromkeys(["10", "100"], nothing)
        measurements = {"10": Measurement(0.1, 0, 1.0, 3), "100": Measurement(0.1 * 10**exponent, 0, None, 3)}
        report.add(Comparison({"step": "assign", "against": against}, cases), measurements)
    header, _, row = growth_table(report).splitlines()
    assert header.split() == ["slope", "of", "time,", "memory", "pixels", "boxes"]
    assert row.split() == ["assign", "1.00,", "-", "0.00,", "-"]
    figure = plot_growth(report)
    assert [panel.get_xlabel() for panel in figure.axes] == ["", "", "pixels", "boxes"]
    (line,) = figure.axes[0].lines
    assert list(line.get_ydata()) == pytest.approx([100, 1000])  # milliseconds
    assert figure.legends[0].get_texts()[0].get_text() == "assign"
