"""Tests on a changed module, in a fork of this process that does not have the module yet.

A fork, since importing torch and Detectron2 takes longer than most tests: this process has them, and each trial begins
with that. Limits of time and of memory hold for all that the tests start; what exceeds them counts as caught.
"""

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from . import overlay

OUT_OF_TIME = "out of time"
CRASHED = "crashed"


class Outcome(NamedTuple):
    """How the tests ended."""

    is_caught: bool
    by: str
    """The first test or file that failed, or `OUT_OF_TIME`, or `CRASHED`; empty if all passed."""
    seconds: float
    log: str
    """The end of what was printed."""


class CannotRun(RuntimeError):  # noqa: N818
    """pytest did not run any test."""


class FirstFailure:
    """A plugin of pytest that notes what fails first."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        self._note(report)

    def _note(self, report: Any) -> None:
        if report.failed and not self.file.exists():
            self.file.write_text(report.nodeid, encoding="utf-8")


def try_out(
    module: str, origin: Path, source: str, tests: Sequence[Path], *, root: Path, seconds: float, gigabytes: float = 6.0
) -> Outcome:
    """
    Args:
        module: dotted; not imported here yet, nor anything that imports it.
        origin: its file, which stays as it is.
        source: what is run in its place.
        tests: files, in the order in which they are run, up to the first that fails.
        root: of the project.
        seconds: that the tests may take.
        gigabytes: of address space that they may take beyond this process'.

    Raises:
        CannotRun: if there is no test, or pytest does not understand its arguments.
    """
    with tempfile.TemporaryDirectory(prefix="mutation_") as name:
        folder = Path(name)
        (folder / "source.py").write_text(source, encoding="utf-8")
        overlay.write_site(folder, module, str(origin), str(folder / "source.py"))
        begin = time.monotonic()
        process = os.fork()
        if process == 0:
            _run_and_exit(folder, module, origin, tests, root=root, seconds=seconds, gigabytes=gigabytes)
        try:
            status = _wait(process, seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)  # also what the tests have left running
        elapsed = time.monotonic() - begin
        log = (folder / "log").read_text(errors="replace")[-3000:] if (folder / "log").exists() else ""
        if status is None:
            return Outcome(True, OUT_OF_TIME, elapsed, log)
        code = os.waitstatus_to_exitcode(status)
        if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise CannotRun(f"{', '.join(map(str, tests))}: pytest runs nothing:\n{log}")
        first = folder / "first_failure"
        by = first.read_text(encoding="utf-8") if first.exists() else CRASHED
        return Outcome(code != 0, by if code != 0 else "", elapsed, log)


def _wait(process: int, seconds: float) -> int | None:
    """Its status; None if it takes longer than that, and is killed."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.02)
    except BaseException:
        _kill(process)
        raise
    _kill(process)
    return None


def _kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _run_and_exit(
    folder: Path,
    module: str,
    origin: Path,
    tests: Sequence[Path],
    *,
    root: Path,
    seconds: float,
    gigabytes: float,
) -> None:
    """In the fork, which never returns from here."""
    code = 1
    try:
        os.setpgid(0, 0)
        with (folder / "log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(seconds) + 60)  # should the parent be killed
        _limit_memory(gigabytes)
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        overlay.install(module, str(origin), str(folder / "source.py"))
        os.chdir(root)
        sys.path.insert(0, str(root))
        if "hypothesis" in sys.modules:  # which keeps the examples that failed
            sys.modules["hypothesis"].configuration.set_hypothesis_home_dir(folder / "hypothesis")
        options = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--rootdir={root}"]
        note = FirstFailure(folder / "first_failure")
        code = int(pytest.main([*options, f"--basetemp={folder}/tmp", *map(str, tests)], plugins=[note]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _limit_memory(gigabytes: float) -> None:
    """Of the address space, so that a mutant that wants the whole machine gets an error and the machine does not."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    limit = pages * resource.getpagesize() + int(gigabytes * 2**30)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux" and (most == resource.RLIM_INFINITY or limit < most):
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
