"""Meters against quantities that are known otherwise."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from bench.measure import memory
from bench.measure.phases import Phases
from bench.measure.throughput import StepClock, warm_up_steps

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


@needs_proc
def test_the_peak_resident_set_sees_an_allocation_and_forgets_it_when_reset() -> None:
    size = 200 * 2**20
    memory.reset_peak("cpu")
    before = memory.peak_resident_bytes()
    block = np.ones(size, np.uint8)
    during = memory.peak_resident_bytes()
    del block
    memory.reset_peak("cpu")
    after = memory.peak_resident_bytes()
    assert before is not None
    assert during is not None
    assert after is not None
    assert during - before == pytest.approx(size, rel=0.02)
    assert during - after == pytest.approx(size, rel=0.02)


@needs_proc
def test_a_phase_does_not_inherit_the_peak_of_the_one_before() -> None:
    phases = Phases("cpu")
    with phases("large"):
        np.ones(200 * 2**20, np.uint8)
    with phases("small"):
        pass
    peaks = phases.peak_memory_bytes
    assert peaks["large"]["resident"] - peaks["small"]["resident"] > 180 * 2**20


def test_phases_add_up_to_the_wall_clock() -> None:
    phases = Phases("cpu")
    for name, seconds in (("one", 0.05), ("two", 0.1), ("one", 0.05)):
        with phases(name):
            time.sleep(seconds)
    assert phases.seconds["one"] == pytest.approx(0.1, rel=0.3)
    assert sum(phases.seconds.values()) == pytest.approx(phases.wall_seconds, rel=0.05)


def test_a_phase_that_fails_is_still_timed() -> None:
    phases = Phases("cpu")
    with pytest.raises(ZeroDivisionError), phases("broken"):
        _ = 1 / 0
    assert "broken" in phases.seconds


@pytest.mark.parametrize(("steps", "skipped"), [(1, 0), (2, 1), (20, 2), (100, 10), (300, 10)])
def test_warm_up_is_a_tenth_at_most_ten_and_never_everything(steps: int, skipped: int) -> None:
    assert warm_up_steps(steps) == skipped


def test_throughput_leaves_out_slow_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, *(10.0 + i for i in range(1, 20))])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = StepClock("cpu")
    for _ in range(20):
        clock.step_done(samples=32, tokens=300)
    steady = clock.throughput()
    assert steady is not None
    assert steady.samples_per_second == pytest.approx(32.0)
    assert steady.tokens_per_second == pytest.approx(300.0)
    assert (steady.steps, clock.samples) == (18, 640)


def test_there_is_no_throughput_before_the_first_step() -> None:
    assert StepClock("cpu").throughput() is None
