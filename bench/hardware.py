"""What device and precision a run uses, found without importing torch.

A configuration error or a finished run must be answered in about a second, and both need the resolved precision (it
is part of a run's identity), so this module asks the operating system and the CUDA driver directly.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import SettingsError

if TYPE_CHECKING:
    from bench.settings import HardwareSettings

NATIVE_BF16_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
COMPUTE_CAPABILITY_MAJOR = 75
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of the CUDA driver interface."""
AMPERE = 8


@dataclass(frozen=True)
class Hardware:
    """A resolved device ("cpu", "cuda", "mps") and precision ("fp32", "bf16", "fp16")."""

    device: str
    precision: str


def resolve(settings: HardwareSettings) -> Hardware:
    """Fill in what `auto` stands for on this machine; raises SettingsError for what it does not have.

    A run that is yet to be submitted to a cluster has another machine, and must name what it uses.
    """
    hardware = _elsewhere(settings) if settings.on_slurm and not in_job() else _on_this_machine(settings)
    if hardware.precision == "fp16" and hardware.device == "cpu":
        raise SettingsError("hardware.precision=fp16 needs a GPU; on the CPU use fp32 or bf16.")
    return hardware


def _on_this_machine(settings: HardwareSettings) -> Hardware:
    device = _default_device() if settings.device == "auto" else settings.device
    if device == "cuda" and cuda_capability() is None:
        raise SettingsError("hardware.device=cuda, but no CUDA device is visible on this machine.")
    if device == "cuda" and settings.processes > cuda_devices():
        raise SettingsError(
            f"hardware.processes={settings.processes} need a GPU each; {cuda_devices()} are visible on this machine."
        )
    if device == "mps" and not _is_apple_silicon():
        raise SettingsError("hardware.device=mps, but this is no Apple silicon machine.")
    precision = _default_precision(device) if settings.precision == "auto" else settings.precision
    return Hardware(device, precision)


def _elsewhere(settings: HardwareSettings) -> Hardware:
    if "auto" in (settings.device, settings.precision):
        raise SettingsError(
            f"hardware={settings.name} is another machine: hardware.device={settings.device} and "
            f"hardware.precision={settings.precision} must be named, not auto."
        )
    return Hardware(settings.device, settings.precision)


def in_job() -> bool:
    """Whether this process belongs to a job that `bench/cluster` submitted."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


@functools.cache
def cuda_devices() -> int:
    """How many CUDA devices are visible."""
    driver, count = _cuda_driver(), ctypes.c_int()
    return count.value if driver is not None and not driver.cuDeviceGetCount(ctypes.byref(count)) else 0


@functools.cache
def _cuda_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver, ready for questions; None where there is none, or a build of PyTorch without CUDA."""
    if version("torch").endswith("+cpu"):
        return None
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


@functools.cache
def cuda_capability() -> int | None:
    """Major compute capability of the first visible CUDA device; None where there is none."""
    driver = _cuda_driver()
    if driver is None:
        return None
    device, major = ctypes.c_int(), ctypes.c_int()
    failed = driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetAttribute(
        ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, device
    )
    return None if failed else major.value


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction set extensions of the CPU as Linux lists them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def description(device: str) -> str:
    """The device in words: the GPU's name, or the CPU's."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return cpu_name()


def cpu_name() -> str:
    """The processor's model name and its number of usable cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = usable_cores()
    return f"{name} ({cores} core{'s' if cores > 1 else ''})"


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _default_device() -> str:
    if cuda_capability() is not None:
        return "cuda"
    return "mps" if _is_apple_silicon() else "cpu"


def _default_precision(device: str) -> str:
    if device == "cuda":
        return "bf16" if (cuda_capability() or 0) >= AMPERE else "fp32"
    return "bf16" if device == "cpu" and cpu_flags() & NATIVE_BF16_CPU_FLAGS else "fp32"


def _is_apple_silicon() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"
