"""The machine reference: a fixed short job that shows how fast a machine is at what training is made of.

Its figures are measured once per machine, device and precision, stored, and joined to every record, so that runs of
different machines can be read side by side. They are never used to rescale a result.

    matmul   2 n³ / seconds of an n × n × n product in the precision's type; n = 512 doubled until it takes 20 ms
    copy     2 × bytes / seconds of a copy of 256 MiB on the device, each byte read and written once
    step     seconds of a training step (forward, backward, fused AdamW) of a fixed two-layer transformer

Rates are the best of several repeats, which is what the machine can do; the step is a median, which is what it does.
A GPU spends the small step mostly on launching kernels, so that it tells the host's pace as well.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import write_json
from bench.records import provenance

if TYPE_CHECKING:
    import torch

REPEATS = 5
SEED = 0

SMALLEST_MATRIX = 512
LONG_ENOUGH_SECONDS = 0.02
COPIED_BYTES = 256 * 2**20
"""Far more than the caches of a GPU and of most CPUs hold."""

WARM_UP_STEPS = 2
MEASURED_STEPS = 7
BATCH_SIZE, TOKENS, VOCABULARY = 8, 64, 1000
WIDTH, HEADS, LAYERS = 128, 4, 2

TERA = 1e12
DATA_SHEETS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"V100-SXM[23]-\d\dGB", {"fp32": 15.7, "fp16": 125}),
    (r"V100-PCIE-\d\dGB", {"fp32": 14, "fp16": 112}),
    (r"T4", {"fp32": 8.1, "fp16": 65}),
    (r"A10", {"fp32": 31.2, "bf16": 125, "fp16": 125}),
    (r"A10G", {"fp32": 35, "bf16": 70, "fp16": 70}),
    (r"A100(-SXM4|-PCIE)-\d\dGB|A100 80GB PCIe", {"fp32": 19.5, "bf16": 312, "fp16": 312}),
    (r"RTX A6000", {"fp32": 38.7, "bf16": 154.8, "fp16": 154.8}),
    (r"GeForce RTX 3090", {"fp32": 35.6, "bf16": 71, "fp16": 71}),
    (r"GeForce RTX 4090", {"fp32": 82.6, "bf16": 165.2, "fp16": 165.2}),
    (r"L4", {"fp32": 30.3, "bf16": 121, "fp16": 121}),
    (r"L40S", {"fp32": 91.6, "bf16": 362, "fp16": 362}),
    (r"H100 PCIe", {"fp32": 51, "bf16": 756.5, "fp16": 756.5}),
    (r"H100 80GB HBM3", {"fp32": 67, "bf16": 989.5, "fp16": 989.5}),
    (r"H200", {"fp32": 67, "bf16": 989.5, "fp16": 989.5}),
    (r"B200", {"fp32": 75, "bf16": 2250, "fp16": 2250}),
)
"""Whole device names without "NVIDIA" or "Tesla", and tera-FLOPs per second by precision."""


@dataclass(frozen=True)
class MachineReference:
    """What the fixed job measured, in floating-point operations, bytes and seconds.

    `machine_id` hashes what they depend on; the function of that name says what that is.
    """

    machine_id: str
    matmul_flops_per_second: float
    copy_bytes_per_second: float
    step_seconds: float


def machine_id(device: str, precision: str) -> str:
    """Twelve hex digits for device, processor, threads, precision and torch version; not for a host or its kernel."""
    import torch

    machine = provenance.machine(device)
    identity = {key: machine[key] for key in ("device_name", "cpu", "torch_threads")}
    identity |= {"device": device, "precision": precision, "torch": str(torch.__version__)}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def measured(device: str, precision: str) -> MachineReference:
    """Run the job now, in about a second; `device` is "cpu", "cuda" or "mps", `precision` "fp32", "bf16" or "fp16".

    The global random state stays as it is and the memory is given back, but the peak of memory shows the job: run it
    before a phase whose memory is measured begins.
    """
    try:
        return MachineReference(
            machine_id(device, precision),
            matmul_flops_per_second(device, precision),
            copy_bytes_per_second(device),
            step_seconds(device, precision),
        )
    finally:
        _release_memory(device)


def stored(folder: Path, device: str, precision: str, achieved_flops_per_second: float = 0.0) -> MachineReference:
    """The figures of this machine from `folder`; measured and stored there if there are none that can be read.

    They are measured again where a run did more FLOPs per second than the stored matrix product: that one was measured
    while the machine was busy.
    """
    path = folder / f"{machine_id(device, precision)}.json"
    reference = _read(path)
    if reference is None or reference.matmul_flops_per_second < achieved_flops_per_second:
        reference = measured(device, precision)
        _write(path, reference)
    return reference


def matmul_flops_per_second(device: str, precision: str) -> float:
    """Best rate of a product of square matrices, of the first size that takes 20 ms or more."""
    size = SMALLEST_MATRIX
    while (seconds := min(_durations(_product(size, device, precision), device, REPEATS))) < LONG_ENOUGH_SECONDS:
        size *= 2
    return 2 * size**3 / seconds


def copy_bytes_per_second(device: str) -> float:
    """Best rate of a copy within the device's memory, bytes read and written; torch's threads share it on the CPU."""
    import torch

    source = torch.ones(COPIED_BYTES // torch.float32.itemsize, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / min(_durations(lambda: target.copy_(source), device, REPEATS))


def step_seconds(device: str, precision: str) -> float:
    """Median duration of a training step of the fixed transformer, under autocast unless the precision is fp32."""
    step = _training_step(device, precision)
    return statistics.median(_durations(step, device, WARM_UP_STEPS + MEASURED_STEPS)[WARM_UP_STEPS:])


def data_sheet_flops_per_second(device_name: str, precision: str) -> float | None:
    """Peak rate that NVIDIA states for a GPU under the name `torch.cuda.get_device_name` reports; None if not known.

    Half precision is the tensor cores' without sparsity and with fp32 accumulation (the data sheets of Ada, Hopper and
    Blackwell print twice that, for sparse matrices); fp32 is that of the ordinary cores, which torch's default matmul
    precision "highest" uses. None also where the tensor cores lack a type, and for a slice (MIG) of a GPU. Sources:
    NVIDIA's data sheets of V100, T4, A10, A10G (with AWS), A100, RTX A6000, L4, L40S, H100, H200 and HGX B200; the
    architecture white papers of GA102 and Ada for RTX 3090 and 4090.
    """
    name = device_name.removeprefix("NVIDIA ").removeprefix("Tesla ")
    for pattern, tera_flops in DATA_SHEETS:
        if re.fullmatch(pattern, name):
            return tera_flops[precision] * TERA if precision in tera_flops else None
    return None


def _durations(job: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs of `job`, waiting for the device before and after each."""
    durations = []
    for _ in range(repeats):
        _wait_for(device)
        start = time.perf_counter()
        job()
        _wait_for(device)
        durations.append(time.perf_counter() - start)
    return durations


def _product(size: int, device: str, precision: str) -> Callable[[], Any]:
    import torch

    generator = torch.Generator(device).manual_seed(SEED)
    left, right = torch.randn(2, size, size, generator=generator, dtype=_dtype(precision), device=device)
    result = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=result)


def _training_step(device: str, precision: str) -> Callable[[], None]:
    import torch

    model = _transformer().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(VOCABULARY, (BATCH_SIZE, TOKENS), generator=generator).to(device)

    def step() -> None:
        with torch.autocast(device, _dtype(precision), enabled=precision != "fp32"):
            loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def _transformer() -> torch.nn.Module:
    """Embedding, encoder without dropout and projection, on the CPU; draws from a random state of its own."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # torch.manual_seed would reach the GPUs' states too
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True)
        encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        return nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), encoder, nn.Linear(WIDTH, VOCABULARY))


def _dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _wait_for(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _release_memory(device: str) -> None:
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def _read(path: Path) -> MachineReference | None:
    """The reference stored at `path`; None if there is none or it is damaged or of another format."""
    try:
        reference = MachineReference(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    figures = (reference.matmul_flops_per_second, reference.copy_bytes_per_second, reference.step_seconds)
    sound = all(isinstance(figure, float) and figure > 0 for figure in figures)
    return reference if sound and reference.machine_id == path.stem else None


def _write(path: Path, reference: MachineReference) -> None:
    """Store `reference` whole or not at all; of two processes that race, the later one's figures stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(reference))
