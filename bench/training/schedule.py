"""Learning rates over a run: warm-up, then the schedule's shape; a group that joins later goes through it from then on.

The formulas are those of `transformers.get_scheduler`, which knows no groups that join later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from bench.settings import TrainingSettings

BEGINS = "begins"
"""Key of an optimizer group: the step at which its own schedule begins; 0 where it is absent."""
PEAK = "initial_lr"
"""Key of an optimizer group: the rate that it was given when it joined."""


@dataclass(frozen=True)
class Schedule:
    """The factor of every group's learning rate: over `warmup` steps from 0 to 1, then as `shape` says until `steps`.

    `shape` is linear (to 0), cosine (half a wave to 0) or constant.
    """

    shape: str
    warmup: int
    steps: int

    @classmethod
    def of_run(cls, settings: TrainingSettings, steps: int) -> Schedule:
        """The schedule of a run of `steps` optimizer steps."""
        warmup = math.ceil(settings.warmup_ratio * steps) if settings.warmup_steps is None else settings.warmup_steps
        return cls(settings.schedule, warmup, steps)

    def factor(self, step: int, begins: int = 0) -> float:
        """The factor at optimizer step `step` of tensors whose schedule begins at step `begins`; 0 before it does."""
        passed, left = step - begins, self.steps - begins
        if passed < 0:
            return 0.0
        if passed < self.warmup:
            return passed / self.warmup
        progress = (passed - self.warmup) / max(1, left - self.warmup)
        if self.shape == "linear":
            return max(0.0, 1 - progress)
        if self.shape == "cosine":
            return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
        return 1.0

    def set_rates(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rates for optimizer step `step`."""
        for group in optimizer.param_groups:
            peak = group.setdefault(PEAK, group["lr"])
            group["lr"] = peak * self.factor(step, group.get(BEGINS, 0))
