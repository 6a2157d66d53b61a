"""Named phases of a run: seconds of wall clock, and memory at the start and at the peak of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

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

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one phase; recorded also when it ends with an error."""
        before = time.perf_counter()
        memory.reset_peak(self._device)
        self.start_memory_bytes.setdefault(name, memory.in_use(self._device))
        start = time.perf_counter()
        self._add(MEASURE, start - before)
        try:
            yield
        finally:
            if self._device == "cuda":
                import torch

                torch.cuda.synchronize()
            peaks = memory.peak(self._device)
            earlier = self.peak_memory_bytes.get(name, {})
            self.peak_memory_bytes[name] = {kind: max(size, earlier.get(kind, 0)) for kind, size in peaks.items()}
            self._add(name, time.perf_counter() - start)

    @property
    def wall_seconds(self) -> float:
        """Seconds since the run started."""
        return time.perf_counter() - self.started_at

    def memory_growth_bytes(self, name: str) -> int | None:
        """How far a phase's peak rose above its own start; None where memory is not known."""
        peak, start = memory.headline(self.peak_memory_bytes.get(name, {})), self.start_memory_bytes.get(name)
        return None if peak is None or start is None else peak - start

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
