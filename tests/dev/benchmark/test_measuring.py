import sys

import pytest
import torch

from dev.benchmark import measuring
from dev.benchmark.measuring import Comparison, Setup, measure, peak_of_torch

QUICK = Setup(is_quick=True)
CPU = torch.device("cpu")


def test_a_single_round_has_no_spread():
    assert measuring.interquartile_range([3.0]) == 0.0


def test_cases_take_turns_and_each_begins_once():
    order = []
    cases = {name: lambda name=name: order.append(name) for name in "abc"}
    found = measure(Comparison({}, cases), QUICK)
    assert order[:6] == ["a", "a", "b", "b", "c", "c"]  # caches, memory
    assert order[6:] == [*"abc", *"bca", *"cab"]
    assert {name: measurement.rounds for name, measurement in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_time_is_the_median_of_the_rounds(monkeypatch):
    seconds = iter([1.0, 50.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(measuring, "_seconds", lambda run, device: next(seconds))
    found = measure(Comparison({}, {"a": lambda: None}), QUICK)["a"]
    # The quartiles of 1, 2, 50 are 1.5 and 26: between them lie 24.5.
    assert (found.seconds, found.spread) == (2.0, 24.5)
    expensive = measure(Comparison({}, {"a": lambda: None}, seconds=0.0, min_rounds=2), QUICK)["a"]
    assert (expensive.seconds, expensive.rounds) == (3.5, 2)


def test_memory_is_what_lives_at_once():
    """Three tensors of 4 MiB, of which at most two live at the same time, and the first belongs to the caller."""
    held = torch.ones(1 << 20)

    def run():
        first = held * 2
        del first
        second = held * 3
        return second + 1

    assert peak_of_torch(run, CPU) == pytest.approx(8, abs=0.01)
    assert peak_of_torch(lambda: None, CPU) == 0


def test_memory_of_a_backward_pass_counts_the_gradient():
    weight = torch.ones(1 << 20, requires_grad=True)

    def run():
        weight.exp().sum().backward()  # keeps the result for the gradient: 4 MiB each
        weight.grad = None

    assert peak_of_torch(run, CPU) == pytest.approx(8, abs=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="the resident set is Linux's")
def test_memory_of_the_process_sees_what_torch_does_not():
    found = measure(Comparison({}, {"a": lambda: b"x" * (64 << 20)}, memory="process"), QUICK)["a"]
    assert found.rounds == 3
    assert found.peak_mib is None or 60 < found.peak_mib < 100
