"""Named phases of a run: seconds of wall clock, and memory at the start and at the peak of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bench.measure import memory

MEASURE = "measure"
"""The phase that holds what the meters cost."""


class Phases:
    """Times the phases of one run. Phases do not nest; one that is entered again adds to its seconds.

    Setting memory's peak back at the start of a phase counts as the phase `measure`.
    """

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_memory_bytes: dict[str, dict[str, int]] = {}
        self.start_memory_bytes: dict[str, int | None] = {}
        self.started_at = time.perf_counter()
        self._device = device
        self._running: str | None = None
        self._earlier_seconds = 0.0

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one phase; recorded also when it ends with an error."""
        before = time.perf_counter()
        memory.reset_peak(self._device)
        self.start_memory_bytes.setdefault(name, memory.in_use(self._device))
        start = time.perf_counter()
        self._add(MEASURE, start - before)
        self._running, self._running_since = name, start
        try:
            yield
        finally:
            self._synchronise()
            self.peak_memory_bytes[name] = _greater(memory.peak(self._device), self.peak_memory_bytes.get(name, {}))
            self._add(name, time.perf_counter() - start)
            self._running = None

    @contextlib.contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Charge a block inside a phase to another one."""
        self._synchronise()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._add(name, seconds)
            if self._running is not None:
                self._add(self._running, -seconds)

    def state_dict(self) -> dict[str, Any]:
        """The phases so far, the running one included, as plain values."""
        seconds, peaks = dict(self.seconds), dict(self.peak_memory_bytes)
        if self._running is not None:
            seconds[self._running] = seconds.get(self._running, 0.0) + time.perf_counter() - self._running_since
            peaks[self._running] = _greater(memory.peak(self._device), peaks.get(self._running, {}))
        return {"seconds": seconds, "peaks": peaks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add the phases of an earlier process of the same run."""
        for name, seconds in state["seconds"].items():
            self._add(name, seconds)
        self._earlier_seconds = sum(state["seconds"].values())
        for name, peaks in state["peaks"].items():
            self.peak_memory_bytes[name] = _greater(peaks, self.peak_memory_bytes.get(name, {}))

    @property
    def wall_seconds(self) -> float:
        """Seconds since the run started, without those between an interruption and the next start."""
        return self._earlier_seconds + time.perf_counter() - self.started_at

    def memory_growth_bytes(self, name: str) -> int | None:
        """How far a phase's peak rose above its own start; None where memory is not known."""
        peak, start = memory.headline(self.peak_memory_bytes.get(name, {})), self.start_memory_bytes.get(name)
        return None if peak is None or start is None else peak - start

    def _synchronise(self) -> None:
        """Wait for the GPU, so that its work is charged to the phase that asked for it."""
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def _greater(peaks: Mapping[str, int], earlier: Mapping[str, int]) -> dict[str, int]:
    """The greater of two peaks of each kind."""
    return {kind: max(size, earlier.get(kind, 0)) for kind, size in peaks.items()}
