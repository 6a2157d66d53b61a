"""Named phases of a run: seconds of wall clock and peak memory of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from bench.measure import memory


class Phases:
    """Times the phases of one run. Phases do not nest; one that is entered again adds to its seconds."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_memory_bytes: dict[str, dict[str, int]] = {}
        self._device = device
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one phase; recorded also when it ends with an error."""
        memory.reset_peak(self._device)
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device == "cuda":
                import torch

                torch.cuda.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            peaks = memory.peak(self._device)
            earlier = self.peak_memory_bytes.get(name, {})
            self.peak_memory_bytes[name] = {kind: max(size, earlier.get(kind, 0)) for kind, size in peaks.items()}

    @property
    def wall_seconds(self) -> float:
        """Seconds since the run started."""
        return time.perf_counter() - self._start
