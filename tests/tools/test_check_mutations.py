"""tools/check_mutations.py on a package of one module, whose tests know nothing of its second function."""

import json

import pytest

from tests.tools.loading import load_tool

tool = load_tool("check_mutations")

SOURCE = """def is_less(a, b):
    return a < b


def difference(a, b):
    return a - b
"""
TESTS = """from shapes.lines import is_less

def test_is_less():
    assert not is_less(2, 2)
"""
SURVIVOR = "shapes.lines:difference: return a - b -> return a + b"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "__init__.py").touch()
    (tmp_path / "shapes" / "lines.py").write_text(SOURCE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_lines.py").write_text(TESTS)
    (tmp_path / "equivalent.json").write_text("{}")
    for name, value in (
        ("ROOT", tmp_path),
        ("PACKAGE", "shapes"),
        ("TEST_FOLDER", "tests"),
        ("TESTS", {}),
        ("EQUIVALENT", tmp_path / "equivalent.json"),
        ("IMPORTED_FIRST", ()),
    ):
        monkeypatch.setattr(tool, name, value)

    def run(*arguments: str) -> tuple[int, str]:
        status = tool.main(["--output", str(tmp_path / "results.json"), *arguments])
        return status, capsys.readouterr().out

    return run


def test_a_survivor_is_shown_and_fails(run):
    status, printed = run()
    assert status == 1
    assert "2 of 2 mutants of 1 modules" in printed
    assert "1 of 2 mutants are caught, 50.0 %" in printed
    _, _, table = printed.partition("survivors")
    assert table.split("\n")[3].split() == ["shapes.lines", "6", "return", "a", "-", "b", "return", "a", "+", "b"]
    assert f'"{SURVIVOR}": ""' in printed
    assert run("--least", "50.0")[0] == 0


def test_the_next_run_goes_on(run, tmp_path, monkeypatch):
    run()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["mutants"]["shapes.lines:is_less: return a < b -> return a <= b"]["by"].endswith("::test_is_less")
    monkeypatch.setattr(tool, "try_out", lambda *_, **__: pytest.fail("nothing is left to do"))
    assert "1 of 2 mutants are caught" in run()[1]


def test_changed_tests_are_run_anew(run, tmp_path):
    run()
    test = tmp_path / "tests" / "test_lines.py"
    test.write_text(TESTS.replace("is_less\n", "difference, is_less\n", 1) + "    assert difference(2, 1) == 1\n")
    status, printed = run()
    assert status == 0
    assert "2 of 2 mutants are caught, 100.0 %" in printed


def test_a_listed_survivor_is_not_counted(run, tmp_path):
    (tmp_path / "equivalent.json").write_text(json.dumps({SURVIVOR: "nobody calls it"}))
    status, printed = run()
    assert status == 0
    assert "1 of 1 mutants are caught, 100.0 %" in printed
    assert "1 more are listed" in printed


def test_what_is_caught_must_not_be_listed(run, tmp_path):
    name = "shapes.lines:is_less: return a < b -> return a <= b"
    (tmp_path / "equivalent.json").write_text(json.dumps({SURVIVOR: "nobody calls it", name: "a guess"}))
    status, printed = run()
    assert status == 1
    assert f"equivalent.json lists what the tests do catch; remove:\n  {name}" in printed


def test_a_list_that_does_not_fit_the_source(run, tmp_path):
    (tmp_path / "equivalent.json").write_text(json.dumps({SURVIVOR.replace("a + b", "b - a"): "nobody calls it"}))
    with pytest.raises(tool.StaleList, match="these are no mutants of it any more"):
        run()


def test_tests_that_fail_without_a_mutant(run, tmp_path):
    (tmp_path / "tests" / "test_lines.py").write_text(TESTS.replace("not ", ""))
    with pytest.raises(tool.Failed, match=r"(?s)test_is_less fails without any change:.*assert is_less"):
        run()


def test_mistakes(run, tmp_path):
    with pytest.raises(tool.Failed, match="--mutants must be at least 1"):
        run("--mutants", "0")
    with pytest.raises(tool.Failed, match="--module rows: shapes has lines"):
        run("--module", "rows")
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(tool.Failed, match=r"results\.json holds no results of this tool"):
        run()
    (tmp_path / "shapes" / "rows.py").touch()
    with pytest.raises(tool.Failed, match=r"there is no .*test_rows\.py to test it"):
        run()


def test_all_modules_have_tests_and_the_list_fits_them():
    modules = tool.read_modules()
    assert {name.rpartition(".")[2] for name in modules} >= tool.TESTS.keys()
    mutants = {name: tool.mutants_of(name, module.source) for name, module in modules.items()}
    tool.read_equivalent(tool.EQUIVALENT, mutants)
