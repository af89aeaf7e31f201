from dev.benchmark import growth
from dev.benchmark.measuring import Setup


def test_every_step_runs_against_everything(monkeypatch):
    monkeypatch.setattr(growth, "QUICK_VALUES", {"pixels": [64 * 85], "batch": [1, 2], "boxes": [3], "classes": [2]})
    found = list(growth.comparisons(Setup(is_quick=True)))
    settings = [(comparison.setting["step"], comparison.setting["against"]) for comparison in found]
    assert settings == [(step, against) for step in growth.STEPS for against in growth.VALUES]
    results = {
        setting: [run() for run in comparison.cases.values()]
        for setting, comparison in zip(settings, found, strict=True)
    }
    assert list(found[1].cases) == ["1", "2"]
    assert [len(targets.labels) for targets in results["assign", "batch"]] == [1, 2]
    assert [len(detections) for detections in results["select", "batch"]] == [1, 2]
    assert [maps.shape[0] for maps in results["convolution", "batch"]] == [1, 2]
    assert results["assign", "classes"][0].labels.max() == 2  # the background's
    assert 0 < results["evaluate", "boxes"][0]["AR@1000"] <= 100
