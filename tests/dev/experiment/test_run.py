import contextlib
from pathlib import Path

import pytest
import torch

from dev.experiment import run as run_module
from dev.experiment.run import best_rate, run
from dev.experiment.system import System
from fcos_rpn import UserError
from fcos_rpn.engine.divergence import TrainingDiverged


def test_the_rate_with_the_best_figure_on_the_fold_is_taken(make_experiment, monkeypatch):
    recall = {0.001: 10.0, 0.01: 30.0, 0.1: 20.0}
    monkeypatch.setattr(run_module, "run", lambda experiment, name, *, rate, seed, fold: {"AR@100": recall[rate]})
    systems = {"a": System("a", "rpn.yaml"), "b": System("b", "rpn.yaml", weights_of="a")}
    experiment = make_experiment(rates=list(recall), systems=systems)
    assert best_rate(experiment, "a") == 0.01
    assert best_rate(experiment, "b") == 0.01  # that of the system whose weights it has


def test_a_single_rate_is_taken_without_a_trial(make_experiment, monkeypatch):
    monkeypatch.setattr(run_module, "run", lambda *args, **kwargs: pytest.fail("tried"))
    assert best_rate(make_experiment(rates=[0.003]), "fcos_rpn") == 0.003


def test_a_rate_that_diverges_has_no_figure_and_is_not_trained_again(
    make_experiment, detectron2_restored, monkeypatch, capsys
):
    # 8 iterations leave 2 for the choice; the weights that the first one leaves make the second one diverge.
    some, all_of_them = make_experiment(rates=[1e30, 0.001]), make_experiment(rates=[1e30, 1e30])
    assert best_rate(some, "fcos_rpn") == 0.001
    assert "fcos_rpn, rate 1e+30: training diverged" in capsys.readouterr().out

    monkeypatch.setattr(run_module, "train", lambda experiment, cfg, title: pytest.fail("trained again"))
    assert best_rate(some, "fcos_rpn") == 0.001
    with pytest.raises(UserError, match="fcos_rpn: training diverges at every learning rate of --rates"):
        best_rate(all_of_them, "fcos_rpn")


def test_a_run_that_diverges_at_the_whole_budget_ends_the_comparison(make_experiment, monkeypatch):
    def diverge(experiment, cfg, title):
        raise TrainingDiverged("training diverged at iteration 3")

    monkeypatch.setattr(run_module, "train", diverge)
    experiment = make_experiment()
    with pytest.raises(TrainingDiverged):
        run(experiment, "fcos_rpn", rate=0.01, seed=1)
    assert not (experiment.args.output / "fcos_rpn" / "seed1" / "run.json").exists()


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("iterations", 200, r"SOLVER\.MAX_ITER 8, now 200"),
        ("batch", 2, r"SOLVER\.IMS_PER_BATCH 8, now 2"),
        ("short_side", 400, r"INPUT\.MIN_SIZE_TRAIN \[64\], now \[400\]"),
        ("train", ["images", "other.json"], r"--train \[.*\], now \['images', 'other\.json'\]"),
        ("test", ["images", "other.json"], r"DATASETS.TEST_FOLDERS .*, now \[\['images', 'other\.json'\]\]"),
        ("weights", "other.pth", r"MODEL\.WEIGHTS /.*/mobilenet_v2\.pth, now other\.pth"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_with_other_settings_is_not_taken_up(
    make_experiment, monkeypatch, argument, value, expected, is_finished
):
    def train(experiment, cfg, title):
        if not is_finished:
            raise KeyboardInterrupt
        return {"AR@100": 10.0}

    monkeypatch.setattr(run_module, "train", train)
    experiment = make_experiment()
    with contextlib.nullcontext() if is_finished else pytest.raises(KeyboardInterrupt):
        run(experiment, "fcos_rpn", rate=0.01, seed=1)
    folder = experiment.args.output / "fcos_rpn" / "seed1"
    with pytest.raises(UserError, match=rf"(?s)^{folder} holds a run with other settings.*\n  {expected}"):
        run(make_experiment(**{argument: value}), "fcos_rpn", rate=0.01, seed=1)


def test_the_rate_and_what_a_fold_is_made_of_are_settings_too(make_experiment, monkeypatch):
    monkeypatch.setattr(run_module, "train", lambda experiment, cfg, title: {"AR@100": 10.0})
    fold = [Path("a.json"), Path("b.json")]
    run(make_experiment(), "fcos_rpn", rate=0.01, seed=1)
    run(make_experiment(), "fcos_rpn", rate=0.01, seed=0, fold=fold)
    # The evaluations on the way change nothing, nor do those of the fold at the whole budget.
    assert run(make_experiment(fold_part=8, evaluations=2), "fcos_rpn", rate=0.01, seed=1) == {"AR@100": 10.0}
    with pytest.raises(UserError, match=r"\n  SOLVER\.BASE_LR 0\.01, now 0\.02$"):
        run(make_experiment(), "fcos_rpn", rate=0.02, seed=1)
    with pytest.raises(UserError, match=r"\n  SOLVER\.MAX_ITER 2, now 1\n"):
        run(make_experiment(fold_part=8), "fcos_rpn", rate=0.01, seed=0, fold=fold)
    other = make_experiment(train=[make_experiment().args.train[0], "other.json"])
    with pytest.raises(UserError, match=r"\n  --train .*other\.json"):
        run(other, "fcos_rpn", rate=0.01, seed=0, fold=fold)


def test_a_run_without_settings_is_not_taken_up(make_experiment, monkeypatch):
    monkeypatch.setattr(run_module, "train", lambda experiment, cfg, title: pytest.fail("taken up"))
    experiment = make_experiment()
    folder = experiment.args.output / "fcos_rpn" / "seed1"
    folder.mkdir(parents=True)
    (folder / "metrics.json").touch()
    with pytest.raises(FileNotFoundError, match=r"seed1/settings\.json"):
        run(experiment, "fcos_rpn", rate=0.01, seed=1)


def test_a_system_that_starts_from_another_has_its_weights(make_experiment, detectron2_restored):
    one_stage = System("FCOS", "custom/fcos_mobilenet_v2.yaml", ["SOLVER.IMS_PER_BATCH", 2])
    overrides = ["SOLVER.IMS_PER_BATCH", 2, "MODEL.FPN.OUT_CHANNELS", 128, "SOLVER.WARMUP_ITERS", 0]
    warm = System("warm", "fcos_rpn_P3P7.yaml", overrides, starts_from="fcos")
    experiment = make_experiment(
        systems={"fcos": one_stage, "warm": warm},
        iterations=4,
        summarize=lambda found, cfg: found.get("box_proposals", {}),
    )
    run(experiment, "warm", rate=1e-12, seed=1)  # moves no weight
    weights = [
        torch.load(experiment.args.output / name / "seed1" / "model_final.pth", weights_only=True)["model"]
        for name in ("fcos", "warm")
    ]
    one, key = weights[0], "core.head.bbox_tower.0.weight"
    torch.testing.assert_close(weights[1][f"proposal_generator.{key}"], one[key])
    assert weights[1]["proposal_generator.core.head.cls_logits.weight"].shape[0] == 1
