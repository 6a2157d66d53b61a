"""Steady-state training throughput.

    train_samples_per_second = samples of the measured steps / seconds of the measured steps

and likewise for tokens. Measured steps are all but the first tenth (at least one, at most ten), in which caches,
allocators and kernels warm up; a run of a single step measures that one. Padding counts as no token. Evaluation and
saving lie outside. On CUDA the marks are device events, so the loop never waits for the device.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

WARM_UP_SHARE = 10
MOST_WARM_UP_STEPS = 10


@dataclass(frozen=True)
class Throughput:
    """Samples and tokens (padding excluded) per second, over `steps` measured steps."""

    samples_per_second: float
    tokens_per_second: float
    steps: int


class StepClock:
    """Marks the end of every optimizer step together with what it processed."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._marks = [self._mark()]
        self._samples: list[int] = []
        self._tokens: list[int] = []

    def step_done(self, samples: int, tokens: int) -> None:
        """Note a finished step of `samples` examples with `tokens` tokens that are no padding."""
        self._marks.append(self._mark())
        self._samples.append(samples)
        self._tokens.append(tokens)

    @property
    def steps(self) -> int:
        """Optimizer steps done so far."""
        return len(self._samples)

    @property
    def samples(self) -> int:
        """Examples processed so far."""
        return sum(self._samples)

    @staticmethod
    def now() -> float:
        """Seconds of wall clock, for logs."""
        return time.perf_counter()

    def step_seconds(self) -> list[float]:
        """Duration of every step; waits for the device."""
        if self._device == "cuda":
            self._marks[-1].synchronize()
            return [a.elapsed_time(b) / 1000 for a, b in zip(self._marks, self._marks[1:], strict=False)]
        return [b - a for a, b in zip(self._marks, self._marks[1:], strict=False)]

    def throughput(self) -> Throughput | None:
        """Throughput of the steady state; None before the first step."""
        if not self._samples:
            return None
        skipped = warm_up_steps(len(self._samples))
        seconds = sum(self.step_seconds()[skipped:])
        return Throughput(
            sum(self._samples[skipped:]) / seconds, sum(self._tokens[skipped:]) / seconds, len(self._samples) - skipped
        )

    def _mark(self) -> Any:
        if self._device != "cuda":
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def warm_up_steps(steps: int) -> int:
    """How many of `steps` steps are cut off as warm-up; always leaves at least one."""
    return min(max(1, steps // WARM_UP_SHARE), MOST_WARM_UP_STEPS, steps - 1)
