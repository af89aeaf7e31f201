import json
from collections import Counter

import pytest

from tests.mutation.mutants import StaleList, choose, means_something_else, mutants_of, read_equivalent

SOURCE = """
def first(a, b):
    '''1 < 2'''
    if (a <
            b):
        return 1
    return a - b


def second(a):
    return a - 1
"""


def test_names_say_what_is_changed_and_where():
    mutants = mutants_of("package.module", SOURCE)
    assert [(mutant.line, mutant.name) for mutant in mutants] == [
        (4, "package.module:first: if (a < -> if (a <="),
        (6, "package.module:first: return 1 -> return 0"),
        (6, "package.module:first: return 1 -> return 2"),
        (7, "package.module:first: return a - b -> return a + b"),
        (11, "package.module:second: return a - 1 -> return a + 1"),
        (11, "package.module:second: return a - 1 -> return a - 0"),
        (11, "package.module:second: return a - 1 -> return a - 2"),
    ]
    assert mutants[3].source == SOURCE.replace("a - b", "a + b")


def test_a_change_over_several_lines_is_shown_on_one():
    (mutant,) = mutants_of("m", "def f(a):\n    g(\n        a,\n    )\n")
    assert (mutant.before, mutant.after, mutant.source) == ("g( a, )", "pass", "def f(a):\n    pass\n")


def test_equal_lines_of_a_function_count_once():
    assert len(mutants_of("m", "def f(a, b):\n    c = a - b\n    c = a - b\n")) == 1
    assert len(mutants_of("m", "def f(a, b):\n    c = a - b\ndef g(a, b):\n    c = a - b\n")) == 2


def test_what_compiles_to_the_same_is_told():
    # The product is computed once, by the compiler: * as / gives 0.0 and no 0; 1 * 1 is 1; 0 * 0 and 0 * 2 stay 0.
    mutants = {mutant.after: mutant for mutant in mutants_of("m", "a = 0 * 1")}
    told = {after for after, mutant in mutants.items() if means_something_else(mutant, "a = 0 * 1")}
    assert mutants.keys() - told == {"a = 0 * 0", "a = 0 * 2"}
    assert told == {"a = 0 / 1", "a = 1 * 1"}


def test_what_does_not_compile_is_told():
    mutant = mutants_of("m", "a < b")[0]._replace(source="a <")
    assert not means_something_else(mutant, "a < b")


def test_modules_have_their_share_and_lines_come_first():
    sources = {
        "long": "".join(f"a{i} = b + c - d\n" for i in range(30)),
        "short": "".join(f"a{i} = b + c - d\n" for i in range(10)),
        "plain": "import a\n" * 20,
    }
    mutants = {name: mutants_of(name, source) for name, source in sources.items()}
    chosen = choose(mutants, sources, 40, seed=0)
    # of 40 mutants and 60 lines: 20 of the long one, 7 of the short one, none of the plain one, which has none
    assert Counter(mutant.module for mutant in chosen) == {"long": 20, "short": 7}
    lines = [mutant.line for mutant in chosen if mutant.module == "long"]
    assert lines == sorted(set(lines))
    assert chosen == choose(mutants, sources, 40, seed=0) != choose(mutants, sources, 40, seed=1)
    everything = choose(mutants, sources, 1000, seed=0)
    assert len(everything) == len(set(everything)) == 80


def test_the_list_of_equivalent_mutants_fits_the_source(tmp_path):
    mutants = {"m": mutants_of("m", SOURCE)}
    file = tmp_path / "equivalent.json"
    file.write_text(json.dumps({"m:first: return 1 -> return 0": "nobody reads it"}))
    assert read_equivalent(file, mutants) == {"m:first: return 1 -> return 0": "nobody reads it"}
    file.write_text(json.dumps({"m:first: return 1 -> return 3": "nobody reads it"}))
    with pytest.raises(StaleList, match=r"no mutants of it any more.*\n  m:first: return 1 -> return 3"):
        read_equivalent(file, mutants)
    file.write_text(json.dumps({"m:first: return 1 -> return 0": " "}))
    with pytest.raises(StaleList, match="no reason is given for\n  m:first"):
        read_equivalent(file, mutants)
