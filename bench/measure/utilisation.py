"""Time means of memory in use and compute utilisation over a window, sampled four times a second.

On CUDA both come from NVML. On the CPU memory is the process's resident set, and utilisation is exact: processor time
of the process over wall clock and usable cores. A sample costs some microseconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from bench.hardware import usable_cores
from bench.measure import memory
from bench.measure.composites import time_average

PERIOD_SECONDS = 0.25


@dataclass(frozen=True)
class Utilisation:
    """Time means over a window; None where the system tells nothing."""

    memory_bytes: float | None = None
    compute: float | None = None
    """Between 0 and 1."""
    seconds: float = 0.0
    """Length of the window."""

    def after(self, earlier: Utilisation) -> Utilisation:
        """The means over an earlier window and this one."""
        pairs = ((earlier.memory_bytes, self.memory_bytes), (earlier.compute, self.compute))
        seconds = earlier.seconds + self.seconds
        if not earlier.seconds or not seconds:
            return self

        def mean(before: float | None, now: float | None) -> float | None:
            if before is None or now is None:
                return None
            return (before * earlier.seconds + now * self.seconds) / seconds

        memory_bytes, compute = (mean(*pair) for pair in pairs)
        return Utilisation(memory_bytes, compute, seconds)


class Window(Protocol):
    """Samples of one kind of device."""

    def sample(self) -> None:
        """Take a sample."""

    def means(self) -> Utilisation:
        """The means from the first sample to the last."""


@contextlib.contextmanager
def sampled(device: str) -> Iterator[Window]:
    """Sample while the block runs, at its start and at its end."""
    window: Window = _CudaWindow() if device == "cuda" else _ProcessWindow()
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(PERIOD_SECONDS):
            window.sample()

    thread = threading.Thread(target=watch, daemon=True)
    window.sample()
    thread.start()
    try:
        yield window
    finally:
        stopped.set()
        thread.join()
        window.sample()


class _ProcessWindow:
    """The resident set and the processor time of this process."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float, float]] = []

    def sample(self) -> None:
        """Read the resident set and the processor time so far."""
        in_use = memory.in_use("cpu")
        if in_use is not None:
            self._samples.append((time.perf_counter(), in_use, _processor_seconds()))

    def means(self) -> Utilisation:
        """Mean bytes, and the share of the usable cores' time that this process took."""
        if len(self._samples) < 2:
            return Utilisation()
        times, in_use, processor = zip(*self._samples, strict=True)
        seconds, used = times[-1] - times[0], processor[-1] - processor[0]
        return Utilisation(time_average(times, in_use), used / (seconds * usable_cores()), seconds)


class _CudaWindow:
    """What NVML reports of the current CUDA device; nothing where it is absent or refuses."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float, float]] = []

    def sample(self) -> None:
        """Read the device's memory in use and its utilisation since the last reading."""
        import torch

        try:
            used, busy = torch.cuda.device_memory_used(), torch.cuda.utilization()
        except Exception:  # NVML has errors of its own, as where a partition of a GPU tells nothing
            return
        self._samples.append((time.perf_counter(), used, busy / 100))

    def means(self) -> Utilisation:
        """Mean bytes and mean utilisation."""
        if len(self._samples) < 2:
            return Utilisation()
        times, in_use, busy = zip(*self._samples, strict=True)
        return Utilisation(time_average(times, in_use), time_average(times, busy), times[-1] - times[0])


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system
