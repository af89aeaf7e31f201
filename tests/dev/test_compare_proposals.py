import json
import re
from pathlib import Path

import pytest

from dev import compare_proposals
from fcos_rpn import UserError

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"


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


def test_curves_are_means_over_the_seeds_of_what_all_have():
    found = results()
    del found["runs"][2]["by_iteration"]["10"]
    name = "anchor RPN, GN, 4 convolutions"
    few, _, by_limit, by_iteration = compare_proposals.curves(found).values()
    assert list(few) == [name, "FCOSRPN"]
    assert few[name] == {0.5: 42.0, 0.75: 21.0}
    assert by_limit[name][1000] == 31.5
    assert by_iteration[name] == {20: 42.0}


def test_trains_evaluates_and_takes_up_what_is_done(tmp_path, arguments, detectron2_restored, capsys):
    compare_proposals.main([*arguments, "--systems", "fcos_rpn"])
    printed = capsys.readouterr().out
    output = tmp_path / "output"
    found = json.loads((output / "results.json").read_text())
    (run,) = found["runs"]
    assert run["by_iteration"]["4"]["AR@100"] == pytest.approx(run["AR@100"])
    assert sum(run["curves"]["100"].values()) / 10 == pytest.approx(run["AR@100"])
    assert (output / "curves.png").exists()

    written = (output / "fcos_rpn" / "seed1" / "model_final.pth").stat().st_mtime_ns
    compare_proposals.main([*arguments, "--systems", "fcos_rpn"])
    assert (output / "fcos_rpn" / "seed1" / "model_final.pth").stat().st_mtime_ns == written

    compare_proposals.main(["--table", str(output / "results.json")])
    table = capsys.readouterr().out.strip().splitlines()[-3:]
    assert "\n".join(table) in printed


@pytest.mark.parametrize("name", ["proposals_cbc", "proposals_coco_mini320"])
def test_the_tables_of_the_docs_are_printed(name, capsys):
    compare_proposals.main(["--table", str(EVIDENCE / f"{name}.json")])
    assert "| FCOSRPN " in capsys.readouterr().out


def test_mistakes_are_named():
    with pytest.raises(UserError, match="--test is missing"):
        compare_proposals.main(["--train", "images", "a.json"])
