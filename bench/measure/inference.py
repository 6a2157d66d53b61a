"""What a form of the model costs to serve, and how far two forms' outputs lie apart.

The *trained form* is what training leaves (base model and adapter side by side), the *inference form* what
`Method.finish` makes of it: merged, pruned, or the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.evaluation import head_outputs
from bench.measure.throughput import percentile
from bench.training.shards import local

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import nn

    from tasks.base import Examples

WARM_UP_CALLS = 5
TIMED_CALLS = 40
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
"""Greatest relative difference between two forms' outputs that rounding explains, by precision."""


@dataclass(frozen=True)
class Latency:
    """Seconds from one encoded example on the host to its output on the host; of a prompt, to its first token."""

    median: float
    p95: float


@dataclass(frozen=True)
class Difference:
    """The largest difference between two forms' outputs, absolute and against the largest output."""

    absolute: float
    relative: float

    def exceeds(self, precision: str) -> bool:
        """Whether rounding in this precision does not explain it."""
        return self.relative > TOLERANCES[precision]


def latency(model: Any, examples: Examples, device: Any, autocast: AbstractContextManager[Any]) -> Latency:
    """Latency of single examples, spread evenly over the lengths in `examples`, after warm-up."""
    import torch

    by_length = np.argsort(examples.lengths, kind="stable")
    chosen = by_length[np.linspace(0, len(by_length) - 1, TIMED_CALLS).astype(int)]
    model.eval()
    seconds = []
    with torch.inference_mode(), autocast:
        for call, index in enumerate([*chosen[-WARM_UP_CALLS:], *chosen]):
            start = time.perf_counter()
            head_outputs(model, examples.question(np.array([index])).on(device)).cpu()
            if call >= WARM_UP_CALLS:
                seconds.append(time.perf_counter() - start)
    return Latency(percentile(seconds, 50), percentile(seconds, 95))


def difference(trained: Mapping[str, NDArray[Any]], inference: Mapping[str, NDArray[Any]]) -> Difference:
    """The largest difference between two forms' outputs, per split of equal shape, over all splits."""
    absolute = max(float(np.abs(trained[split] - inference[split]).max()) for split in trained)
    largest = max(float(np.abs(outputs).max()) for outputs in trained.values())
    return Difference(absolute, absolute / largest if largest > 0 else 0.0)


def fingerprint(model: nn.Module) -> list[tuple[str, ...]]:
    """What decides a model's cost and outputs: its modules, and shape and content of its parameters and buffers."""
    import torch

    modules = [(name, type(module).__name__) for name, module in model.named_modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [*modules, *((name, str(tuple(tensor.shape)), _content(torch, tensor)) for name, tensor in tensors)]


def _content(torch: Any, tensor: Any) -> str:
    held = local(tensor.detach())
    return str(torch.hash_tensor(held).item()) if held.numel() else ""
