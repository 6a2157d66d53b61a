"""Meters against quantities that are known otherwise."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.bookkeeping import is_out_of_memory
from bench.measure import memory
from bench.measure.energy import PARTIAL, EnergyMeter
from bench.measure.phases import Phases
from bench.measure.throughput import StepClock, percentile, seconds_to_quality, warm_up_steps
from bench.measure.utilisation import Utilisation, sampled

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


@needs_proc
def test_the_peak_resident_set_sees_an_allocation_and_forgets_it_when_reset() -> None:
    size = 200 * 2**20
    memory.reset_peak("cpu")
    before = memory.peak("cpu")["resident"]
    block = np.ones(size, np.uint8)
    during = memory.peak("cpu")["resident"]
    del block
    memory.reset_peak("cpu")
    after = memory.peak("cpu")["resident"]
    assert during - before == pytest.approx(size, rel=0.02)
    assert during - after == pytest.approx(size, rel=0.02)


@needs_proc
def test_what_the_allocator_kept_of_freed_memory_is_not_charged_to_the_next_phase() -> None:
    phases = Phases("cpu")
    with phases("many"):
        blocks = [torch.ones(2**14) for _ in range(4000)]  # small enough for the heap: 250 MiB in all
        del blocks[::2]
        del blocks
    with phases("after"):
        pass
    peaks = phases.peak_memory_bytes
    assert peaks["many"]["resident"] - peaks["after"]["resident"] > 200 * 2**20


@needs_proc
def test_a_phase_grows_by_what_it_allocates() -> None:
    phases = Phases("cpu")
    with phases("train"):
        np.ones(200 * 2**20, np.uint8)
    growth = phases.memory_growth_bytes("train")
    assert growth == pytest.approx(200 * 2**20, rel=0.05)
    assert phases.memory_growth_bytes("never entered") is None


@needs_proc
def test_memory_in_use_lies_below_what_the_machine_has() -> None:
    in_use, available, capacity = memory.in_use("cpu"), memory.available("cpu"), memory.capacity("cpu")
    assert in_use is not None
    assert available is not None
    assert capacity is not None
    assert 0 < in_use < capacity
    assert 0 < available < capacity


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
    assert sum(phases.seconds.values()) == pytest.approx(phases.wall_seconds, rel=0.02)


def test_a_phase_that_fails_is_still_timed() -> None:
    phases = Phases("cpu")
    with pytest.raises(ZeroDivisionError), phases("broken"):
        _ = 1 / 0
    assert "broken" in phases.seconds


@pytest.mark.parametrize(("steps", "skipped"), [(1, 1), (2, 1), (20, 2), (100, 10), (300, 10)])
def test_warm_up_is_a_tenth_at_least_one_and_at_most_ten(steps: int, skipped: int) -> None:
    assert warm_up_steps(steps) == skipped


def test_throughput_leaves_out_slow_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, *(10.0 + i for i in range(1, 20))])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = StepClock("cpu")
    for _ in range(20):
        clock.step_done(samples=32, tokens=300)
    steady = clock.steady_state()
    assert steady is not None
    assert steady.samples_per_second == pytest.approx(32.0)
    assert steady.tokens_per_second == pytest.approx(300.0)
    assert (len(steady.step_seconds), clock.samples, clock.tokens) == (18, 640, 6000)


def test_a_run_that_goes_on_warms_up_again() -> None:
    def train(clock: StepClock, steps: int) -> StepClock:
        for _ in range(steps):
            clock.step_done(samples=clock.steps, tokens=1)
        return clock

    first, second = train(StepClock("cpu"), 8), StepClock("cpu")
    second.load_state_dict(first.state_dict())
    steady = train(second, 12).steady_state()
    assert steady is not None
    assert steady.samples == sum(range(20)) - (0 + 1) - (8 + 9)
    assert (len(steady.step_seconds), steady.tokens) == (16, 16)


def test_there_is_no_steady_state_before_the_first_step_and_one_of_a_single_step() -> None:
    clock = StepClock("cpu")
    assert clock.steady_state() is None
    clock.step_done(samples=4, tokens=20)
    steady = clock.steady_state()
    assert steady is not None
    assert (steady.samples, len(steady.step_seconds)) == (4, 1)


def test_the_steady_state_knows_the_shapes_of_its_passes() -> None:
    clock = StepClock("cpu")
    for step in range(4):
        clock.step_done(samples=4, tokens=20, shapes=[(2, step), (2, 9)])
    steady = clock.steady_state()
    assert steady is not None
    assert steady.shapes == [(2, 1), (2, 9), (2, 2), (2, 9), (2, 3), (2, 9)]
    assert len(clock.shapes) == 8


def test_percentiles_interpolate_between_neighbours() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 50) == 3.0
    assert percentile([0.0, 10.0], 90) == pytest.approx(9.0)
    assert percentile([7.0], 99) == 7.0


def test_quality_is_reached_when_the_mean_loss_first_is_within_five_percent_of_its_end() -> None:
    losses = [2.0, 1.5, 1.04, 1.2, 1.0]
    assert seconds_to_quality(losses, [10.0, 20.0, 30.0, 40.0, 50.0]) == 30.0


def test_one_lucky_batch_is_no_quality() -> None:
    losses = [1.0] * 20
    losses[3] = 0.1  # with 20 points, means are over 2
    losses[10:] = [0.5] * 10
    assert seconds_to_quality(losses, [float(i) for i in range(20)]) == 11.0


def test_there_is_no_quality_without_a_curve() -> None:
    assert seconds_to_quality([], []) is None


@needs_proc
def test_utilisation_tells_a_busy_process_from_a_sleeping_one() -> None:
    with sampled("cpu") as working:
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end:
            pass
    with sampled("cpu") as sleeping:
        time.sleep(0.5)
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        pass  # what is done after a window does not count in it
    busy, idle = working.means(), sleeping.means()
    assert busy.compute is not None
    assert idle.compute is not None
    assert idle.compute < 0.1 < busy.compute <= 1.05
    assert idle.memory_bytes == pytest.approx(memory.in_use("cpu"), rel=0.1)


def test_utilisation_of_two_windows_is_their_mean_by_length() -> None:
    first, second = Utilisation(100.0, 0.5, seconds=3.0), Utilisation(200.0, None, seconds=1.0)
    assert second.after(first) == Utilisation(125.0, None, 4.0)
    assert first.after(Utilisation()) == first


def test_a_block_inside_a_phase_can_be_charged_to_another() -> None:
    phases = Phases("cpu")
    with phases("train"):
        time.sleep(0.1)
        with phases.aside("checkpoint"):
            time.sleep(0.2)
    assert phases.seconds["checkpoint"] == pytest.approx(0.2, abs=0.05)
    assert phases.seconds["train"] == pytest.approx(0.1, abs=0.05)


def test_the_phases_of_an_interrupted_process_count_with_those_of_the_next() -> None:
    first = Phases("cpu")
    with first("train"):
        time.sleep(0.1)
        state = first.state_dict()
        time.sleep(0.3)  # lost
    second = Phases("cpu")
    with second("train"):
        second.load_state_dict(state)
        time.sleep(0.1)
    assert second.seconds["train"] == pytest.approx(0.2, abs=0.08)
    assert sum(second.seconds.values()) == pytest.approx(second.wall_seconds, rel=0.05)


def test_a_pause_between_steps_counts_for_no_step() -> None:
    clock = StepClock("cpu")
    clock.step_done(4, 40)
    time.sleep(0.2)
    clock.resume()
    clock.step_done(4, 40)
    assert clock.seconds < 0.1
    later = StepClock("cpu")
    later.load_state_dict(clock.state_dict())
    later.step_done(2, 20)
    assert (later.steps, later.samples, later.tokens) == (3, 10, 100)
    assert later.step_seconds()[:2] == clock.step_seconds()


def test_energy_is_absent_with_a_reason_or_counts_up() -> None:
    meter = EnergyMeter("cpu")
    with meter.window("train"):
        time.sleep(0.2)
    if meter.reason is None:
        assert meter.source == "cpu"
        assert meter.joules["train"] > 0
    else:
        assert (meter.source, meter.joules) == (None, {})


def test_a_counter_that_fails_ends_the_measurement_and_not_the_run() -> None:
    class Refusing:
        gpu_indices, cpu_indices = (0,), ()

        def begin_window(self, name: str) -> None:
            raise ValueError("not supported by this partition")

    meter = EnergyMeter("cpu")
    meter._monitor, meter.reason = Refusing(), None
    with meter.window("train"):
        assert meter.read("train") is None
    assert meter.source is None
    assert "not supported by this partition" in (meter.reason or "")


def metered(reason: str | None, rank: int, **joules: float) -> EnergyMeter:
    """The meter of one process, after its windows."""
    meter = EnergyMeter("cpu", rank)
    meter.reason, meter.joules = reason, joules
    return meter


def test_the_energy_of_a_run_is_that_of_all_its_parts_or_of_none() -> None:
    whole = metered(None, 0, train=3.0, evaluate=1.0)
    whole.add(metered(None, 0, train=2.0).own)
    assert (whole.joules, whole.reason) == ({"train": 5.0, "evaluate": 1.0}, None)
    whole.add(metered("no counter", 1).own)
    assert whole.joules["train"] == 5.0, "the machine's CPUs are charged to its first process"
    whole.add(metered("no counter", 0).own)
    assert (whole.joules, whole.reason) == ({}, PARTIAL)

    without = metered("no counter", 0)
    without.add(metered(None, 0, train=2.0).own)
    assert (without.joules, without.reason) == ({}, "no counter")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("unable to mmap 512428824 bytes from file <weights>: Cannot allocate memory (12)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_no_memory_is_left(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
