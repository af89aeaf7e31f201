"""Measure time and peak memory of functions that do the same thing, in turn within one process.

Other load on the machine slows all of them alike, so their ratios are steadier than their times.
"""

import contextlib
import ctypes
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20
ROUNDS, QUICK_ROUNDS = 15, 3

Memory = Literal["torch", "process"]
"""Which memory counts: torch's tensors, or, for work without torch, the resident set of the process."""


class Setup(NamedTuple):
    """What all measurements of a run have in common."""

    device: torch.device = torch.device("cpu")
    is_quick: bool = False
    """Small inputs and few rounds: a test, not a measurement."""
    uses_amp: bool = False
    """Run models under autocast in float16."""

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.uses_amp)

    def inference(self, model: Callable[..., object], *inputs: Any) -> Callable[[], object]:
        """Run a model on inputs without gradients."""

        def run() -> object:
            with torch.no_grad(), self.autocast():
                return model(*inputs)

        return run


class Comparison(NamedTuple):
    """Functions that do the same thing to the same input."""

    setting: Mapping[str, object]
    """Strings and numbers."""
    cases: Mapping[str, Callable[[], object]]
    """By name: ours begin with `OURS`; the others are peers and perhaps `FLOOR`."""
    memory: Memory = "torch"
    seconds: float = 120.0
    """No round after the first `min_rounds` begins later."""
    min_rounds: int = 3


OURS = "fcos_rpn"
FLOOR = "floor"
"""Work without which there is no result."""


class Measurement(NamedTuple):
    seconds: float
    """The median of the rounds."""
    spread: float
    """Their interquartile range, in seconds."""
    peak_mib: float | None
    """Largest memory at once, in MiB above what was held before; None where the system does not tell."""
    rounds: int


def measure(comparison: Comparison, setup: Setup) -> dict[str, Measurement]:
    """Run all cases several times in turn; each round begins with another one.

    Torch's memory is measured in a run of its own, which is slower, after one that fills caches. The memory of the
    process is measured in every run, without one before, since such work takes minutes.
    """
    cases = comparison.cases
    peaks: dict[str, list[float | None]] = {name: [] for name in cases}
    times: dict[str, list[float]] = {name: [] for name in cases}
    if comparison.memory == "torch":
        for name, run in cases.items():
            run()
            peaks[name].append(peak_of_torch(run, setup.device))
    gc.freeze()  # so that collections between runs are short
    begin = time.perf_counter()
    for number in range(QUICK_ROUNDS if setup.is_quick else ROUNDS):
        if number >= comparison.min_rounds and time.perf_counter() - begin > comparison.seconds:
            break
        first = number % len(cases)
        for name in [*list(cases)[first:], *list(cases)[:first]]:
            gc.collect()
            if comparison.memory == "torch":
                times[name].append(_seconds(cases[name], setup.device))
            else:
                seconds, peak = _seconds_and_peak_of_process(cases[name])
                times[name].append(seconds)
                peaks[name].append(peak)
    gc.unfreeze()
    return {
        name: Measurement(
            statistics.median(times[name]),
            interquartile_range(times[name]),
            None if None in peaks[name] else max(peak for peak in peaks[name] if peak is not None),
            len(times[name]),
        )
        for name in cases
    }


def interquartile_range(values: list[float]) -> float:
    if len(values) == 1:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if is_cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def peak_of_torch(run: Callable[[], object], device: torch.device) -> float:
    """Largest MiB of tensors at once, above those held before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    # On the CPU every allocation of a tensor and every release is an event of the profiler.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = run()
    del result  # its release is not part of the run
    events: Any = profiler.profiler
    is_on_cpu = torch.autograd.DeviceType.CPU
    changes = (e for e in events.kineto_results.events() if e.name() == "[memory]" and e.device_type() == is_on_cpu)
    bytes_ = [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(bytes_, initial=0)) / MIB


def _seconds_and_peak_of_process(run: Callable[[], object]) -> tuple[float, float | None]:
    """Linux keeps the largest resident set since its mark was reset; elsewhere the peak is None."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # memory that the C library keeps would hide growth
    before = None
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = _high_water_mark()
    begin = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - begin
    peak = None if before is None else _high_water_mark() - before
    del result
    return seconds, peak


def _high_water_mark() -> float:
    """In MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
