"""Energy of named windows, from the counters of this job's own devices, read by zeus.

NVML's counter of the GPUs that the run uses, and RAPL's of the CPU packages where the system lets it be read. A whole
CPU package is charged, whoever else runs on it; other GPUs of the node are not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import one_line

RAPL = Path("/sys/class/powercap")
NOT_INSTALLED = "the package zeus, which reads the energy counters, is not installed"
NO_COUNTER = "neither NVML's nor RAPL's energy counter can be read on this machine"
PARTIAL = "a process of the run could not read its energy counters"


class EnergyMeter:
    """Joules per window. Where nothing can be read, `reason` says why and the windows stay empty.

    The first process of a machine is charged with its CPU packages; a run's other processes on a CPU count nothing.
    """

    def __init__(self, device: str, local_rank: int = 0) -> None:
        self.joules: dict[str, float] = {}
        self._counts = device == "cuda" or local_rank == 0
        self._monitor, self.reason = _monitor(device, local_rank)

    @property
    def source(self) -> str | None:
        """Which counters are read."""
        if self._monitor is None:
            return None
        indices = {"gpu": self._monitor.gpu_indices, "cpu": self._monitor.cpu_indices}
        return ", ".join(name for name, found in indices.items() if found)

    @property
    def own(self) -> dict[str, float] | None:
        """The joules of every window; None where they could not be measured."""
        return dict(self.joules) if self.reason is None or not self._counts else None

    def add(self, joules: Mapping[str, float] | None) -> None:
        """Add another process's `own` joules of the same run; what is not known of all parts is not known."""
        if joules is None:
            self._give_up(self.reason or PARTIAL)
        elif self.own is not None:
            for name, value in joules.items():
                self.joules[name] = self.joules.get(name, 0.0) + value

    @contextlib.contextmanager
    def window(self, name: str) -> Iterator[None]:
        """Measure the energy of a block, which waits for the GPU at both ends."""
        self._begin(name)
        try:
            yield
        finally:
            self._end(name)

    def read(self, name: str) -> dict[str, float] | None:
        """`own` with the joules of the open window `name` so far."""
        self._end(name)
        self._begin(name)
        return self.own

    def _begin(self, name: str) -> None:
        with self._reading():
            if self._monitor is not None:
                self._monitor.begin_window(name)

    def _end(self, name: str) -> None:
        with self._reading():
            if self._monitor is not None:
                measured = self._monitor.end_window(name)
                counters = (measured.gpu_energy, measured.cpu_energy, measured.dram_energy)
                joules = sum(value for counter in counters if counter for value in counter.values())
                self.joules[name] = self.joules.get(name, 0.0) + joules

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """A counter that fails ends the measurement, not the run; what it had counted is not the whole."""
        try:
            yield
        except Exception as error:  # each backend of zeus has its own errors
            self._give_up(f"{NO_COUNTER}: {one_line(error)}")

    def _give_up(self, reason: str) -> None:
        self._monitor, self.reason = None, reason
        self.joules.clear()


def _monitor(device: str, local_rank: int) -> tuple[Any, str | None]:
    """A zeus monitor of the devices in use, or the reason why there is none."""
    if device == "cpu" and sys.platform == "linux" and not RAPL.exists():
        return None, NO_COUNTER
    try:
        os.environ.setdefault("ZEUS_LOG_LEVEL", "ERROR")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from zeus.monitor import ZeusMonitor
    except ImportError:
        return None, NOT_INSTALLED
    logging.getLogger("zeus").setLevel(logging.ERROR)
    try:
        monitor = ZeusMonitor(gpu_indices=_gpu_indices(device), cpu_indices=None if local_rank == 0 else [])
    except Exception as error:  # each backend of zeus has its own errors; none of them may end a run
        return None, f"{NO_COUNTER}: {error}"
    return (monitor, None) if monitor.gpu_indices or monitor.cpu_indices else (None, NO_COUNTER)


def _gpu_indices(device: str) -> list[int]:
    if device != "cuda":
        return []
    import torch

    return [torch.cuda.current_device()]
