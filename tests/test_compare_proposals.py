import contextlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from fcos_rpn import UserError
from fcos_rpn.engine import TrainingDiverged
from tests.tiny import write_coco_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import compare_proposals


def arguments(*given: str):
    return compare_proposals.build_argument_parser().parse_args(list(given))


@pytest.fixture
def data(tmp_path):
    images, annotations = write_coco_folder(tmp_path / "data", num_images=10)
    weights = tmp_path / "mobilenet_v2.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None).features.state_dict(prefix="features."), weights)
    return ["--train", images, annotations, "--test", images, annotations, "--weights", str(weights)]


def results():
    def run(system, seed, recall, seconds):
        curves = {str(limit): {"0.50": recall, "0.75": recall / 2} for limit in compare_proposals.LIMITS}
        by_iteration = {"10": {"AR@100": recall / 2}, "20": {"AR@100": recall}}
        figures = {"AR@100": recall, "AR@1000": recall + 10, "seconds": seconds}
        return {"system": system, "seed": seed, **figures, "curves": curves, "by_iteration": by_iteration}

    runs = [run("rpn_gn", 1, 40.0, 100), run("fcos_rpn", 1, 50.0, 120), run("rpn_gn", 2, 44.0, 110)]
    return {"rates": {"rpn_gn": 0.01, "fcos_rpn": 0.005}, "runs": runs}


def test_the_table_has_mean_and_spread_over_the_seeds():
    rows = [re.split(r"\s*\|\s*", row.strip("| ")) for row in compare_proposals.table(results()).splitlines()]
    # The sample deviation of 40 and 44 is √8 = 2.83.
    assert rows[2] == ["anchor RPN, GN, 4 convolutions", "0.01", "2", "42.0 ± 2.8", "52.0 ± 2.8", "105", "44.7", "56.9"]
    assert rows[3] == ["FCOSRPN", "0.005", "1", "50.0", "60.0", "120", "52.8", "60.3"]


def test_curves_are_means_over_the_seeds():
    curves = compare_proposals.curves(results())
    assert list(curves) == ["anchor RPN, GN, 4 convolutions", "FCOSRPN"]
    first = curves["anchor RPN, GN, 4 convolutions"]
    assert first.by_iou[100] == {0.5: 42.0, 0.75: 21.0}
    assert first.by_limit[1000] == 31.5
    assert first.by_iteration == {10: 21.0, 20: 42.0}


def test_curves_leave_out_what_a_stopped_run_lacks():
    found = results()
    del found["runs"][2]["by_iteration"]["10"]
    assert compare_proposals.curves(found)["anchor RPN, GN, 4 convolutions"].by_iteration == {20: 42.0}
    found = results()
    del found["runs"][0]["by_iteration"]["10"]
    assert compare_proposals.curves(found)["anchor RPN, GN, 4 convolutions"].by_iteration == {20: 42.0}


def test_systems_share_all_but_what_is_compared():
    args = arguments("--train", "images", "a.json", "--test", "images", "b.json", "--short-side", "400")
    anchors, fcos = (
        compare_proposals.build_config(system, args, rate=0.01, seed=1) for system in ("rpn_gn", "fcos_rpn")
    )
    assert anchors.SOLVER == fcos.SOLVER
    assert anchors.INPUT == fcos.INPUT
    assert anchors.DATASETS == fcos.DATASETS
    assert anchors.MODEL.BACKBONE == fcos.MODEL.BACKBONE
    assert anchors.MODEL.FPN == fcos.MODEL.FPN
    assert anchors.MODEL.RPN.IN_FEATURES == fcos.MODEL.RPN.IN_FEATURES == ["p2", "p3", "p4", "p5", "p6"]
    # 8 x stride at 800 pixels, half of that at 400
    assert anchors.MODEL.ANCHOR_GENERATOR.SIZES == [[16.0], [32.0], [64.0], [128.0], [256.0]]
    assert fcos.MODEL.FCOS.SIZES_OF_INTEREST == [16.0, 32.0, 64.0, 128.0]


def test_every_fifth_image_is_held_out(tmp_path):
    _, annotations = write_coco_folder(tmp_path / "data", num_images=10)
    train, held_out = (json.loads(file.read_text()) for file in compare_proposals.split(Path(annotations), tmp_path))
    assert [image["id"] for image in held_out["images"]] == [1, 6]
    assert len(train["images"]) == 8
    assert {box["image_id"] for box in held_out["annotations"]} == {1, 6}
    assert len(train["annotations"]) + len(held_out["annotations"]) == 20


def test_the_folds_are_checked(tmp_path):
    (tmp_path / "other.json").write_text('{"annotations": [], "categories": []}')
    with pytest.raises(UserError, match=r"other\.json: the key 'images' is missing"):
        compare_proposals.split(tmp_path / "other.json", tmp_path)
    _, empty = write_coco_folder(tmp_path / "empty", num_images=10, boxes_per_image=0)
    with pytest.raises(UserError, match="must have boxes"):
        compare_proposals.split(Path(empty), tmp_path)
    _, one = write_coco_folder(tmp_path / "one", num_images=1)
    with pytest.raises(UserError, match="the images but every fifth must have boxes"):
        compare_proposals.split(Path(one), tmp_path)


def test_the_rate_with_the_best_recall_on_the_fold_is_taken(tmp_path, monkeypatch):
    _, annotations = write_coco_folder(tmp_path / "data", num_images=10)
    recall = {0.001: 10.0, 0.01: 30.0, 0.1: 20.0}
    monkeypatch.setattr(compare_proposals, "run", lambda system, args, *, rate, seed, fold: {"AR@100": recall[rate]})
    rates = ["--rates", "0.001", "0.01", "0.1"]
    args = arguments("--train", "images", annotations, "--output", str(tmp_path), *rates)
    assert compare_proposals.best_rate("fcos_rpn", args) == 0.01


def test_a_rate_that_diverges_has_no_recall_and_is_not_trained_again(
    tmp_path, data, detectron2_restored, monkeypatch, capsys
):
    # 8 iterations leave 2 for the choice; the weights that the first one leaves make the second one diverge.
    options = [*data, "--iterations", "8", "--short-side", "64", "--output", str(tmp_path)]
    both, one = (arguments(*options, "--rates", *rates) for rates in (["1e30", "0.001"], ["1e30"]))
    assert compare_proposals.best_rate("fcos_rpn", both) == 0.001
    assert "FCOSRPN, rate 1e+30: training diverged" in capsys.readouterr().out

    monkeypatch.setattr(compare_proposals.ProposalTrainer, "train", lambda trainer: pytest.fail("trained again"))
    assert compare_proposals.best_rate("fcos_rpn", both) == 0.001
    with pytest.raises(UserError, match="FCOSRPN: training diverges at every learning rate of --rates"):
        compare_proposals.best_rate("fcos_rpn", one)


def test_a_run_that_diverges_at_the_whole_budget_ends_the_comparison(tmp_path, data, monkeypatch):
    def diverge(cfg, title):
        raise TrainingDiverged("training diverged at iteration 3")

    monkeypatch.setattr(compare_proposals, "train", diverge)
    args = arguments(*data, "--output", str(tmp_path))
    with pytest.raises(TrainingDiverged):
        compare_proposals.run("fcos_rpn", args, rate=0.01, seed=1)
    assert not (tmp_path / "fcos_rpn" / "seed1" / "run.json").exists()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["--iterations", "200"], "--iterations 300, now 200"),
        (["--short-side", "400"], "--short-side 240, now 400"),
        (["--train", "images", "other.json"], r"--train \[.*\], now \['/.*/images', '/.*/other\.json'\]"),
        (["--test", "images", "other.json"], r"--test \[.*\], now \['/.*/images', '/.*/other\.json'\]"),
        (["--weights", "other.pth"], r"--weights /.*/mobilenet_v2\.pth, now /.*/other\.pth"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_with_other_settings_is_not_taken_up(tmp_path, data, monkeypatch, option, expected, is_finished):
    def train(cfg, title):
        if not is_finished:
            raise KeyboardInterrupt
        return {"AR@100": 10.0}

    monkeypatch.setattr(compare_proposals, "train", train)
    given = [*data, "--output", str(tmp_path)]
    with contextlib.nullcontext() if is_finished else pytest.raises(KeyboardInterrupt):
        compare_proposals.run("rpn", arguments(*given), rate=0.01, seed=1)
    with pytest.raises(UserError, match=rf"^{tmp_path}/rpn/seed1 holds a run with other settings.*\n  {expected}$"):
        compare_proposals.run("rpn", arguments(*given, *option), rate=0.01, seed=1)


def test_the_chosen_rate_and_the_config_are_settings_too(tmp_path, data, monkeypatch):
    monkeypatch.setattr(compare_proposals, "train", lambda cfg, title: {"AR@100": 10.0})
    args = arguments(*data, "--output", str(tmp_path))
    assert compare_proposals.run("rpn", args, rate=0.01, seed=1) == {"AR@100": 10.0}
    assert compare_proposals.run("rpn", args, rate=0.01, seed=1) == {"AR@100": 10.0}
    with pytest.raises(UserError, match=r"\n  rate 0\.01, now 0\.02$"):
        compare_proposals.run("rpn", args, rate=0.02, seed=1)

    get_config = compare_proposals.model_zoo.get_config

    def changed(name):
        cfg = get_config(name)
        cfg.SOLVER.IMS_PER_BATCH = 2
        return cfg

    monkeypatch.setattr(compare_proposals.model_zoo, "get_config", changed)
    with pytest.raises(UserError, match=r"\n  SOLVER\.IMS_PER_BATCH 8, now 2$"):
        compare_proposals.run("rpn", args, rate=0.01, seed=1)


def test_a_run_without_settings_is_not_taken_up(tmp_path, data, monkeypatch):
    monkeypatch.setattr(compare_proposals, "train", lambda cfg, title: pytest.fail("taken up"))
    (tmp_path / "rpn" / "seed1").mkdir(parents=True)
    (tmp_path / "rpn" / "seed1" / "metrics.json").touch()
    with pytest.raises(UserError, match=r"cannot read .*seed1/settings\.json"):
        compare_proposals.run("rpn", arguments(*data, "--output", str(tmp_path)), rate=0.01, seed=1)


def test_trains_evaluates_and_takes_up_what_is_done(tmp_path, data, detectron2_restored, capsys):
    output = tmp_path / "output"
    options = ["--systems", "fcos_rpn", "--seeds", "1", "--iterations", "4", "--rates", "0.001", "--short-side", "64"]
    compare_proposals.main(arguments(*data, *options, "--output", str(output)))
    printed = capsys.readouterr().out
    found = json.loads((output / "results.json").read_text())
    (run,) = found["runs"]
    assert run["by_iteration"]["4"]["AR@100"] == pytest.approx(run["AR@100"])
    assert sum(run["curves"]["100"].values()) / 10 == pytest.approx(run["AR@100"])
    assert (output / "curves.png").exists()

    written = (output / "fcos_rpn" / "seed1" / "model_final.pth").stat().st_mtime_ns
    compare_proposals.main(arguments(*data, *options, "--output", str(output)))
    assert (output / "fcos_rpn" / "seed1" / "model_final.pth").stat().st_mtime_ns == written

    compare_proposals.main(arguments("--table", str(output / "results.json")))
    table = capsys.readouterr().out.strip().splitlines()[-3:]
    assert "\n".join(table) in printed


def test_mistakes_are_named(tmp_path, data, capsys):
    with pytest.raises(UserError, match="--test is missing"):
        compare_proposals.main(arguments("--train", "images", "a.json"))
    with pytest.raises(UserError, match=r"cannot read .*nothing\.json"):
        compare_proposals.main(arguments("--table", str(tmp_path / "nothing.json")))
    for content in ("{}", "[]"):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(UserError, match=r"other\.json is of another kind"):
            compare_proposals.main(arguments("--table", str(tmp_path / "other.json")))
    with pytest.raises(UserError, match=r"other\.json/output: cannot be made or written"):
        compare_proposals.main(arguments(*data, "--output", str(tmp_path / "other.json" / "output")))
    for text, message in (("3", "3 is too few"), ("many", "invalid iterations value: 'many'")):
        with pytest.raises(SystemExit):
            arguments("--iterations", text)
        assert f"argument --iterations: {message}" in capsys.readouterr().err
