import numpy as np
import pytest

from dev.benchmark import evaluation
from dev.benchmark.measuring import Setup


def test_all_find_the_same_figures(monkeypatch):
    monkeypatch.setattr(evaluation, "QUICK_NUM_IMAGES", 4)
    monkeypatch.setattr(evaluation, "NUM_CLASSES", 3)
    monkeypatch.setattr(evaluation, "NUM_PROPOSALS", 150)
    (found,) = evaluation.comparisons(Setup(is_quick=True))
    assert found.memory == "process"
    ours, slow, detectron2, pycocotools = (run() for run in found.cases.values())
    assert list(found.cases) == ["fcos_rpn", "fcos_rpn, pycocotools", "detectron2", "pycocotools"]
    assert 10 < ours["bbox"]["AP"] < 90
    assert ours["bbox"]["AP"] == pytest.approx(detectron2["bbox"]["AP"])
    precision = pycocotools["instances"]["precision"][..., 0, -1]  # all areas, most boxes
    assert 100 * precision[precision > -1].mean() == pytest.approx(ours["bbox"]["AP"])
    for index, key in enumerate(("AR@100", "AR@1000")):
        recall = 100 * np.mean(pycocotools["proposals"]["recall"][:, 0, 0, index])
        assert recall == pytest.approx(ours["box_proposals"][key])
        assert ours["box_proposals"][key] == pytest.approx(slow["box_proposals"][key])
    assert found.cases["fcos_rpn"]() == ours
