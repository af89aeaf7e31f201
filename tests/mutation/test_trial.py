"""Trials of a package of one module and of three lines, whose fork has all that these tests have imported."""

import contextlib
import os
import sys
import time

import pytest

from tests.mutation.trial import CRASHED, OUT_OF_TIME, CannotRun, try_out

SOURCE = "def half(a):\n    return a / 2\n"

TESTS = """
import subprocess, sys
from sums import half

def test_half():
    assert half(6) == 3

def test_half_elsewhere():
    code = "from sums import half; assert half(8) == 4, __import__('sums').__file__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
"""


@pytest.fixture
def trial(tmp_path):
    (tmp_path / "sums.py").write_text(SOURCE)
    (tmp_path / "test_sums.py").write_text(TESTS.replace("ROOT", repr(str(tmp_path))))

    def trial(source: str, *, tests: str = "test_sums.py", seconds: float = 300):
        files = [tmp_path / tests]
        return try_out("sums", tmp_path / "sums.py", source, files, root=tmp_path, seconds=seconds, gigabytes=1)

    yield trial
    assert {path.name for path in tmp_path.iterdir()} == {"sums.py", "test_sums.py"}  # and no cache of any kind
    assert (tmp_path / "sums.py").read_text() == SOURCE
    assert "sums" not in sys.modules


def test_the_unchanged_module_passes(trial):
    assert trial(SOURCE)[:2] == (False, "")


def test_a_mistake_is_caught_by_a_test(trial):
    outcome = trial(SOURCE.replace("/", "*"))
    assert outcome[:2] == (True, "test_sums.py::test_half")
    assert "assert 12 == 3" in outcome.log


def test_processes_that_tests_start_have_the_mistake_too(trial):
    assert trial("def half(a):\n    return 3\n")[:2] == (True, "test_sums.py::test_half_elsewhere")


def test_a_module_that_cannot_be_imported_is_caught(trial):
    assert trial("1 / 0")[:2] == (True, "test_sums.py")


def test_a_hang_is_caught_and_nothing_of_it_runs_on(trial, tmp_path):
    begin = time.monotonic()
    pids = tmp_path.with_suffix(".pids")
    source = f"""import os, subprocess
child = subprocess.Popen(["sleep", "60"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
while True: pass
"""
    assert trial(source, seconds=3)[:2] == (True, OUT_OF_TIME)
    assert time.monotonic() - begin < 20
    for pid in map(int, pids.read_text().split()):
        end = time.monotonic() + 5
        while is_running(pid) and time.monotonic() < end:
            time.sleep(0.02)
        assert not is_running(pid)


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_crash_is_caught(trial):
    assert trial("import os\nos.abort()")[:2] == (True, CRASHED)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is for Linux")
def test_a_mistake_that_wants_all_memory_gets_an_error(trial):
    outcome = trial("x = bytearray(1 << 36)\n" + SOURCE)  # 64 GiB
    assert outcome[:2] == (True, "test_sums.py")
    assert "MemoryError" in outcome.log


def test_no_tests_are_no_success(trial):
    with pytest.raises(CannotRun, match=r"sums\.py: pytest runs nothing"):
        trial(SOURCE, tests="sums.py")


def test_this_process_stays_as_it_is(trial):
    before = dict(os.environ), os.getcwd(), list(sys.path), list(sys.meta_path)
    trial(SOURCE)
    assert (dict(os.environ), os.getcwd(), list(sys.path), list(sys.meta_path)) == before
