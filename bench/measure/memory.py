"""Memory in use and its peak per phase: PyTorch's allocator on CUDA, the process's resident set elsewhere.

On Linux the kernel keeps a process's peak resident set (`VmHWM`) and forgets it when 5 is written to
`/proc/self/clear_refs`, so phases and successive runs in one process can be told apart without a sampling thread.
What was freed before a phase is handed back to the system first, or the allocator's leftovers would be charged to it.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def reset_peak(device: str) -> None:
    """Start a new phase: hand back what is free and forget the peak so far."""
    if device == "cuda":
        if _may_use_cuda():
            import torch

            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return
    _release_free_memory()
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text(RESET_PEAK)


def peak(device: str) -> dict[str, int]:
    """Peak bytes since `reset_peak`, by kind; empty where the system tells nothing.

    On CUDA `active`, `allocated` and `reserved` are those of PyTorch's allocator, and `device` is what the whole
    device has in use now, other processes included. Elsewhere `resident` is the process's resident set, its peak since
    the process's start where the system, as macOS, cannot forget an earlier one.
    """
    if device == "cuda":
        import torch

        statistics = torch.cuda.memory_stats()
        free, total = torch.cuda.mem_get_info()
        peaks = {kind: int(statistics[f"{kind}_bytes.all.peak"]) for kind in ("active", "allocated", "reserved")}
        return peaks | {"device": total - free}
    resident = _status_bytes("VmHWM") or _peak_since_start()
    return {} if resident is None else {"resident": resident}


def in_use(device: str) -> int | None:
    """Bytes in use now, of the kind that `headline` picks; None where the system tells nothing."""
    if device == "cuda":
        if not _may_use_cuda():
            return 0
        import torch

        return torch.cuda.memory_allocated()
    return _status_bytes("VmRSS")


def capacity(device: str) -> int | None:
    """Bytes of memory that the device has; None where the system tells nothing."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[1]
    return _kilobytes(Path("/proc/meminfo"), "MemTotal")


def available(device: str) -> int | None:
    """Bytes that could still be allocated now; None where the system tells nothing."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def headline(peaks: dict[str, int]) -> int | None:
    """The one figure for tables: allocated bytes on CUDA, the resident set elsewhere."""
    return peaks.get("allocated", peaks.get("resident"))


def _may_use_cuda() -> bool:
    """Whether this process can hold memory of the GPU: not before torch is imported."""
    return "torch" in sys.modules


def _peak_since_start() -> int | None:
    """The peak of the whole process, where the system keeps no other; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status_bytes(name: str) -> int | None:
    return _kilobytes(STATUS, name)


def _kilobytes(path: Path, name: str) -> int | None:
    """The figure that a file of /proc gives in kB under `name`, in bytes; None where there is none."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def _release_free_memory() -> None:
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
