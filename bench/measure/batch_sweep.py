"""The largest batch that trains in this device's memory, and the throughput on the way there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.bookkeeping import is_out_of_memory
from bench.measure import memory
from bench.measure.throughput import StepClock

if TYPE_CHECKING:
    from bench.training.loop import TrainingLoop

LARGEST = 4096
WARM_UP_STEPS = 1
TIMED_STEPS = 3
SAFE_SHARE = 0.8
"""Share of the memory that is free now which a batch may be expected to take, where going past it kills the process."""


def samples_per_second(loop: TrainingLoop, device: str, bytes_per_example: float | None) -> dict[int, float]:
    """Training examples per second by batch size: 1, 2, 4, ... up to the largest that fits.

    Every batch repeats the longest example, so that a size that is listed fits whatever is drawn. On CUDA the first
    failure to allocate ends the climb; elsewhere the system would end the process, so a batch whose activations
    (`bytes_per_example` each) would take most of the free memory is not tried. The loop's model is used up.
    """
    free = memory.available(device)
    longest = int(loop.longest_batch_indices[-1])
    found: dict[int, float] = {}
    size = 1
    while size <= LARGEST and (device == "cuda" or _fits(size, bytes_per_example, free)):
        try:
            found[size] = _speed(loop, np.full(size, longest), device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        size *= 2
    return found


def _fits(size: int, bytes_per_example: float | None, free: int | None) -> bool:
    if bytes_per_example is None or free is None:
        raise ValueError("the largest batch that fits is only known beforehand with measure.memory=true")
    return size * bytes_per_example <= SAFE_SHARE * free


def _speed(loop: TrainingLoop, indices: np.ndarray, device: str) -> float:
    for _ in range(WARM_UP_STEPS):
        loop.train_on(indices, StepClock(device))
    clock = StepClock(device)
    for _ in range(TIMED_STEPS):
        loop.train_on(indices, clock)
    return clock.samples / sum(clock.step_seconds())
