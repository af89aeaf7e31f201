import json

from dev.experiment.summary import by_system, figures_by_iteration, mean_and_spread


def test_mean_and_spread():
    assert mean_and_spread([40.0, 44.0]) == "42.0 ± 2.8"  # the sample deviation of 40 and 44 is √8 = 2.83
    assert mean_and_spread([40.04]) == "40.0"


def test_by_system():
    first, second, third = ({"system": name, "seed": seed} for name, seed in (("a", 1), ("b", 1), ("a", 2)))
    assert by_system({"runs": [first, second, third]}) == {"a": [first, third], "b": [second]}


def test_figures_by_iteration(tmp_path):
    lines = [
        {"iteration": 9, "bbox/AP": 1.0, "bbox/AP50": 2.0},
        {"iteration": 19, "total_loss": 0.5},
        {"iteration": 20, "bbox/AP": 3.0, "bbox/AP50": 4.0},  # the last evaluation is logged under the next number
    ]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    found = figures_by_iteration(tmp_path / "metrics.json", 20, "bbox", ("AP", "AP50"))
    assert found == {"10": {"AP": 1.0, "AP50": 2.0}, "20": {"AP": 3.0, "AP50": 4.0}}
