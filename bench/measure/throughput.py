"""Duration of every optimizer step, and the steady state of training.

    train_samples_per_second = samples of the measured steps / seconds of the measured steps

and likewise for tokens. Measured steps are all but the first tenth (at least one, at most ten), in which caches,
allocators and kernels warm up, and as many after every interruption; where that leaves none, the last step is measured.
Padding counts as no token. Evaluation and saving lie outside. On CUDA the marks are device events, so the loop never
waits for the device.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WARM_UP_SHARE = 10
MOST_WARM_UP_STEPS = 10
QUALITY_MARGIN = 1.05
QUALITY_SHARE = 10

Shape = tuple[int, int]
"""Examples and padded length of one forward pass."""


@dataclass(frozen=True)
class SteadyState:
    """The measured steps: how long each took and what they processed, padding excluded from the tokens."""

    step_seconds: list[float]
    samples: int
    tokens: int
    shapes: list[Shape]

    @property
    def seconds(self) -> float:
        """Duration of all measured steps."""
        return sum(self.step_seconds)

    @property
    def samples_per_second(self) -> float:
        """Training examples per second."""
        return self.samples / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Training tokens per second."""
        return self.tokens / self.seconds


class StepClock:
    """Marks the end of every optimizer step together with what it processed.

    The first step begins when the clock is made; after a pause, `resume` begins the next.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._begun = self._mark()
        self._unread: list[tuple[Any, Any]] = []
        self._step_seconds: list[float] = []
        self._seconds = 0.0
        self._samples: list[int] = []
        self._tokens: list[int] = []
        self._shapes: list[Sequence[Shape]] = []
        self._cold = [0]  # steps before which a process began
        self.first_step_at: float | None = None

    def resume(self) -> None:
        """Leave the time since the last step out of the next one."""
        self._begun = self._mark()

    def step_done(self, samples: int, tokens: int, shapes: Sequence[Shape] = ()) -> None:
        """Note a finished step of `samples` examples with `tokens` tokens that are no padding, in these passes."""
        end = self._mark()
        self._unread.append((self._begun, end))
        self._begun = end
        self._samples.append(samples)
        self._tokens.append(tokens)
        self._shapes.append(shapes)
        if self.first_step_at is None:
            self.first_step_at = self._reached(end)

    def state_dict(self) -> dict[str, Any]:
        """The steps so far as plain values; waits for the device."""
        shapes = [[tuple(shape) for shape in step] for step in self._shapes]
        return {
            "seconds": self.step_seconds(),
            "samples": list(self._samples),
            "tokens": list(self._tokens),
            "shapes": shapes,
            "cold": list(self._cold),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the steps that `state_dict` gave; call on a new clock."""
        self._step_seconds, self._seconds = list(state["seconds"]), sum(state["seconds"])
        self._samples, self._tokens = list(state["samples"]), list(state["tokens"])
        self._shapes = list(state["shapes"])
        self._cold = [*state["cold"], len(self._samples)]
        self.resume()

    def count_passes_of(self, processes: Sequence[tuple[list[int], list[Sequence[Shape]]]]) -> None:
        """Count the tokens and passes of all the run's processes, each as its `passes` gives them.

        The steps and their samples are common, and the times stay this process's own.
        """
        tokens, shapes = zip(*processes, strict=True)
        self._tokens = [sum(step) for step in zip(*tokens, strict=True)]
        self._shapes = [[shape for part in step for shape in part] for step in zip(*shapes, strict=True)]

    @property
    def passes(self) -> tuple[list[int], list[Sequence[Shape]]]:
        """Tokens and passes of every step."""
        return self._tokens, self._shapes

    @property
    def seconds(self) -> float:
        """Duration of all steps so far; waits for the device."""
        self._read_marks()
        return self._seconds

    @property
    def steps(self) -> int:
        """Optimizer steps done so far."""
        return len(self._samples)

    @property
    def samples(self) -> int:
        """Examples processed so far."""
        return sum(self._samples)

    @property
    def tokens(self) -> int:
        """Tokens processed so far, padding excluded."""
        return sum(self._tokens)

    @property
    def shapes(self) -> list[Shape]:
        """The forward passes so far."""
        return [shape for step in self._shapes for shape in step]

    def step_seconds(self) -> list[float]:
        """Duration of every step; waits for the device."""
        self._read_marks()
        return list(self._step_seconds)

    def steady_state(self) -> SteadyState | None:
        """The measured steps; None before the first step."""
        steps = len(self._samples)
        if not steps:
            return None
        length = warm_up_steps(steps)
        warming = {step for begun in self._cold for step in range(begun, begun + length)}
        measured = [step for step in range(steps) if step not in warming] or [steps - 1]
        seconds = self.step_seconds()
        return SteadyState(
            [seconds[step] for step in measured],
            sum(self._samples[step] for step in measured),
            sum(self._tokens[step] for step in measured),
            [shape for step in measured for shape in self._shapes[step]],
        )

    def _reached(self, mark: Any) -> float:
        """The time of a mark, waiting for it where the device runs ahead."""
        if self._device != "cuda":
            return float(mark)
        mark.synchronize()
        return time.perf_counter()

    def _read_marks(self) -> None:
        if self._device == "cuda" and self._unread:
            self._unread[-1][1].synchronize()
            read = [begin.elapsed_time(end) / 1000 for begin, end in self._unread]
        else:
            read = [end - begin for begin, end in self._unread]
        self._step_seconds += read
        self._seconds += sum(read)
        self._unread.clear()

    def _mark(self) -> Any:
        if self._device != "cuda":
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def warm_up_steps(steps: int) -> int:
    """How many steps of a run of `steps` are cut off as warm-up each time that it begins."""
    return min(max(1, steps // WARM_UP_SHARE), MOST_WARM_UP_STEPS)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which `percent` percent of the values lie, interpolated linearly between neighbours."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def seconds_to_quality(losses: Sequence[float], seconds: Sequence[float]) -> float | None:
    """When the loss first came within 5 % of its final value, in seconds since training began.

    `losses` and `seconds` are the training curve. The loss at a point is the mean over the tenth of the curve that
    ends there, so that one lucky batch does not count. None for an empty curve.
    """
    if not losses:
        return None
    window = max(1, len(losses) // QUALITY_SHARE)
    means = [statistics.fmean(losses[end - window : end]) for end in range(window, len(losses) + 1)]
    near_enough = (index for index, mean in enumerate(means) if mean <= QUALITY_MARGIN * means[-1])
    reached = next(near_enough, len(means) - 1)
    return seconds[reached + window - 1]
