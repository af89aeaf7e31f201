import json
import re
from pathlib import Path

import pytest

from dev import compare_two_stage
from fcos_rpn import UserError

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"


def systems_of(*given):
    return list(compare_two_stage.systems_of(compare_two_stage.build_argument_parser().parse_args(given)))


def test_named_systems_are_screened_alone():
    named = ["rpn+p2", "fcos_rpn+p2+loss_weight_0.3"]
    assert systems_of("--screen", "--systems", *named) == named
    assert systems_of("--systems", *named) == named
    assert systems_of("--screen") == compare_two_stage.screened_systems()
    assert systems_of() == ["rpn", "fcos_rpn", "fcos"]


def test_the_plateau_begins_where_nothing_much_is_gained():
    curve = {10: (20.0, 0.1), 30: (29.9, 0.2), 100: (30.2, 0.3), 1000: (30.0, 0.5)}
    assert compare_two_stage.plateau("x", curve) == ["x", "30", "29.9", "200", "30.0", "500"]
    assert compare_two_stage.plateau("x", curve, tolerance=0.05)[1] == "100"


def test_table():
    def run(system, seed, ap):
        return {"system": system, "seed": seed, "AP": ap, "AP50": 50.0, "AP75": 1.0, "AR@100": 2.0, "AR@1000": 3.0}

    limits = [
        {"system": "rpn", "limit": limit, "seed": seed, "AP": ap, "seconds_per_image": 0.25}
        for limit, seed, ap in ((10, 1, 30.0), (100, 1, 40.0), (10, 2, 50.0), (100, 2, 40.0))
    ]
    results = {"rates": {"rpn": 0.01}, "runs": [run("rpn", 1, 40.0), run("rpn", 2, 44.0)], "limits": limits}
    rows = [re.split(r"\s*\|\s*", row.strip("| ")) for row in compare_two_stage.table(results).splitlines() if row]
    assert rows[2] == ["anchor RPN", "0.01", "2", "42.0 ± 2.8", "50.0 ± 0.0", "1.0 ± 0.0", "2.0 ± 0.0", "3.0 ± 0.0"]
    # AP at 10 proposals is the mean of 30 and 50, as high as at 100.
    assert rows[5] == ["anchor RPN", "10", "40.0", "250", "40.0", "250"]


def test_trains_evaluates_and_times(tmp_path, arguments, detectron2_restored, capsys):
    compare_two_stage.main([*arguments, "--systems", "fcos_rpn+fused", "--proposals", "5", "20"])
    printed = capsys.readouterr().out
    output = tmp_path / "output"
    results = json.loads((output / "results.json").read_text())
    (run,) = results["runs"]
    # Fused scores take the weights of fcos_rpn.
    assert (run["system"], run["seconds"], run["by_iteration"]) == ("fcos_rpn+fused", 0.0, {})
    assert {path.parts[-3] for path in output.rglob("model_final.pth")} == {"fcos_rpn"}
    assert [found["limit"] for found in results["limits"]] == [5, 20]
    assert all(found["seconds_per_image"] > 0 for found in results["limits"])
    assert (output / "limits.png").exists()
    compare_two_stage.main(["--table", str(output / "results.json")])
    assert capsys.readouterr().out.strip() in printed


@pytest.mark.parametrize("file", sorted(EVIDENCE.glob("two_stage_*.json")), ids=lambda file: file.stem)
def test_the_tables_of_the_docs_are_printed(file, capsys):
    compare_two_stage.main(["--table", str(file)])
    assert "| FCOSRPN, RoI heads pool from P2-P5 " in capsys.readouterr().out


def test_numbers_of_proposals_are_not_screened():
    with pytest.raises(UserError, match="--proposals goes without --screen"):
        compare_two_stage.main(["--screen", "--proposals", "10"])
