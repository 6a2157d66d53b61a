"""What produced a result: the code's commit, the libraries' versions, the machine."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.hardware import cpu_name, description, usable_cores

LIBRARIES = (
    "accelerate",
    "datasets",
    "evaluate",
    "hydra-core",
    "numpy",
    "peft",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of Python and the libraries that shape a result."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of this checkout and whether tracked files differ from it; (None, None) outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit, (None if changes is None else bool(changes))


def machine(device: str) -> dict[str, Any]:
    """The machine in plain values."""
    import torch

    return {
        "device_name": description(device),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def hostname() -> str:
    """This machine's name."""
    return socket.gethostname()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
