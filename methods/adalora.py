"""AdaLoRA: a budget of ranks that training spreads over the layers (Zhang et al. 2023, arXiv:2303.10512).

Every target layer computes y = W0 x + b + s B diag(E) A x, of initial rank r0 and with s = alpha / (r0 + 1e-5)
(`methods/parts/svd_linear.py`). The loss gains gamma times the mean of ||A A^T - I||_F and ||B^T B - I||_F over all
layers. After every optimizer step t, with R0 = r0 * layers and R* = rank * layers:

- until T - t_f, the importance of every triplet is updated (`methods/parts/triplets.py`);
- every `mask_interval` steps after t_i, E is zeroed but for the b(t) most important triplets of the whole model,
  b(t) = R* + (R0 - R*) (1 - (t - t_i) / (T - t_f - t_i))^3;
- after T - t_f, the same mask is applied at every step, since Adam's momentum would revive what was zeroed.

A masked entry of E keeps its gradient and its Adam state and may come back until then. Equations and order are those
of the authors' code (QingruZhang/AdaLoRA), which differs from the paper in the divisor of s and fails where the budget
is R0. As there, a t_f below 2 may leave the last step without a mask, and then more triplets than R*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from bench.requirements import INNER_SHARE, NOT_NEGATIVE, require_number, require_whole
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbone.anatomy import Part
    from bench.backbone.pretrained import Backbone
    from methods.parts.svd_linear import SVDLinear

INITIAL_PER_FINAL_RANK = 1.5
INIT_WARMUP_SHARE = 0.13
FINAL_WARMUP_SHARE = 0.47
MASK_INTERVAL_SHARE = 0.002


@dataclass(frozen=True)
class Schedule:
    """When ranks are scored and masked, in optimizer steps: section 3.3; the names are those of the authors' code."""

    total_steps: int
    init_warmup: int
    final_warmup: int
    mask_interval: int

    @classmethod
    def of_run(
        cls, total_steps: int, init_warmup: int | None, final_warmup: int | None, mask_interval: int | None
    ) -> Schedule:
        """The schedule of a run of `total_steps`; None takes the share of it that the authors' GLUE scripts use.

        The shares, 13 %, 47 % and 0.2 % (at least one step), are the medians of the eight scripts.
        Raises SettingsError where no step is left between the two phases.
        """
        first = round(INIT_WARMUP_SHARE * total_steps) if init_warmup is None else init_warmup
        last = round(FINAL_WARMUP_SHARE * total_steps) if final_warmup is None else final_warmup
        interval = max(1, round(MASK_INTERVAL_SHARE * total_steps)) if mask_interval is None else mask_interval
        if total_steps <= first + last:
            raise SettingsError(
                f"method.init_warmup={first} and method.final_warmup={last} must leave steps between them: "
                f"their sum has to be below the run's {total_steps} steps."
            )
        return cls(total_steps, first, last, interval)

    def scores_at(self, step: int) -> bool:
        """Whether importance is updated after optimizer step `step`."""
        return step < self.total_steps - self.final_warmup

    def masks_at(self, step: int) -> bool:
        """Whether E is masked after optimizer step `step`."""
        if step <= self.init_warmup:
            return False
        return step > self.total_steps - self.final_warmup or step % self.mask_interval == 0

    def budget(self, step: int, initial: int, final: int) -> int:
        """How many triplets may be non-zero after optimizer step `step`, from `initial` down to `final`."""
        if step <= self.init_warmup:
            return initial
        if step > self.total_steps - self.final_warmup:
            return final
        remaining = 1 - (step - self.init_warmup) / (self.total_steps - self.final_warmup - self.init_warmup)
        return int(final + (initial - final) * remaining**3)


class AdaLora(LinearMethod):
    """Low-rank updates whose ranks are allotted by importance under a shrinking budget.

    `rank` is the average rank at the end, `initial_rank` the rank at the start (None: 1.5 times `rank`, rounded up,
    the paper's rule); `alpha`, `dropout` and `targets` are those of LoRA; `orthogonality_weight` is gamma. For the
    schedule's settings see `Schedule`.
    """

    family = "low-rank"
    paper = "Zhang et al. 2023, arXiv:2303.10512"

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        alpha: float,
        dropout: float,
        targets: Sequence[str],
        orthogonality_weight: float,
        beta1: float,
        beta2: float,
        initial_rank: int | None = None,
        init_warmup: int | None = None,
        final_warmup: int | None = None,
        mask_interval: int | None = None,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.initial_rank = math.ceil(INITIAL_PER_FINAL_RANK * rank) if initial_rank is None else initial_rank
        self.alpha = alpha
        self.dropout = dropout
        self.orthogonality_weight = orthogonality_weight
        self.betas = (beta1, beta2)
        self.phases = {"init_warmup": init_warmup, "final_warmup": final_warmup, "mask_interval": mask_interval}

    def check_settings(self) -> None:
        """Ranks must shrink, averages and phases lie in their ranges."""
        require_whole("method.initial_rank", self.initial_rank, self.rank, "method.rank")
        for name, value in self.phases.items():
            if value is not None:
                require_whole(f"method.{name}", value, least=1 if name == "mask_interval" else 0)
        for name, beta in zip(("beta1", "beta2"), self.betas, strict=True):
            require_number(f"method.{name}", beta, INNER_SHARE)
        require_number("method.orthogonality_weight", self.orthogonality_weight, NOT_NEGATIVE)

    def check_part(self, part: Part) -> None:
        """The ranks must fit the target."""
        check_rank(self.initial_rank, part, "initial_rank")

    def plan_steps(self, total_steps: int) -> None:
        """Lay out the phases of the budget."""
        self.schedule = Schedule.of_run(total_steps, **self.phases)

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Put an SVDLinear in the place of every target."""
        from methods.parts.triplets import TripletImportance

        super().insert(backbone, total_steps)
        self.importance = TripletImportance(list(self.layers.values()), *self.betas)

    def adapted(self, part: Part) -> SVDLinear:
        """The target with its triplets."""
        from methods.parts.svd_linear import SVDLinear

        return SVDLinear(part.module, self.initial_rank, self.alpha, self.dropout)

    def penalty(self) -> Tensor:
        """gamma times the mean distance of all A and B from orthonormal rows and columns."""
        from methods.parts.triplets import mean_orthogonality

        return self.orthogonality_weight * mean_orthogonality(self.importance.layers)

    def after_step(self, step: int) -> None:
        """Score with the new weights and this step's clipped gradients, then mask, as the schedule says."""
        if self.schedule.scores_at(step):
            self.importance.update()
        if self.schedule.masks_at(step):
            initial, final = self.initial_rank * len(self.layers), self.rank * len(self.layers)
            self.importance.mask(self.schedule.budget(step, initial, final))

    def report(self) -> dict[str, Any]:
        """Every layer's rank, their sum, and the parameters of A, B and E that are left without masked triplets."""
        ranks = {name: int(layer.E.count_nonzero()) for name, layer in self.layers.items()}
        sizes = {name: layer.in_features + layer.out_features + 1 for name, layer in self.layers.items()}
        return {
            "ranks": ranks,
            "total_rank": sum(ranks.values()),
            "parameters_left": sum(ranks[name] * sizes[name] for name in ranks),
        }

    def state_dict(self) -> dict[str, Any]:
        """The importance averages: the next mask depends on them."""
        return self.importance.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back the importance averages."""
        self.importance.load_state_dict(state)
