"""Peak memory of a phase: allocated and reserved bytes on CUDA, the resident set elsewhere.

On Linux the kernel keeps a process's peak resident set (`VmHWM`) and forgets it when 5 is written to
`/proc/self/clear_refs`, so phases and successive runs in one process can be told apart without a sampling thread.
"""

from __future__ import annotations

import re
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def reset_peak(device: str) -> None:
    """Start a new phase: forget the peak so far."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif CLEAR_REFS.exists():
        CLEAR_REFS.write_text(RESET_PEAK)


def peak(device: str) -> dict[str, int]:
    """Peak bytes since `reset_peak`, by kind; empty where the system tells nothing."""
    if device == "cuda":
        import torch

        return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    resident = peak_resident_bytes()
    return {} if resident is None else {"resident": resident}


def peak_resident_bytes() -> int | None:
    """The kernel's peak resident set of this process in bytes; None where there is no /proc."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def headline(peaks: dict[str, int]) -> int | None:
    """The one figure for tables: allocated bytes on CUDA, the resident set elsewhere."""
    return peaks.get("allocated", peaks.get("resident"))
