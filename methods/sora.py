"""SoRA: Sparse Low-rank Adaptation of Pre-trained Language Models (Ding et al. 2023, arXiv:2311.11696).

Low-rank changes start with a large rank, and a gate on the rank dimension learns which components may stay. Every
target layer computes y = W0 x + b + s B (g * (A x)), s = alpha / rank, with A uniform as in LoRA, B = 0 and
g ~ N(0, 1) (`methods/parts/gated_linear.py`). The loss gains `sparse_lambda` times the mean of |g| over all gates.
After every optimizer step the gates are thresholded (`methods/parts/proximal.py`):

- `prox=soft`, the paper's proximal step: g <- sign(g) max(|g| - xi, 0);
- `prox=official`, what the released code does and the published numbers come from: 0 where |g| < 2 xi, else as above.

A zeroed gate keeps its gradient and comes back when an Adam step exceeds the threshold. `finish` drops the components
whose gate is 0, A' = A[K] and B' = B[:, K] diag(g_K), and merges the rest.

xi is a loss per step whatever the learning rate: a gate that no gradient opposes loses xi * steps, 4.2 for the
authors' 14,000 steps at 3e-4, so the number of steps decides the sparsity as much as xi does. With `lambda_schedule`
xi grows in stages, the paper's Algorithm 1: `lambda_num` values from `xi` to `max_lambda`, the first for
`first_stage` steps, the others for equal parts of the rest (`Stages`); `report` has the density after each.

Deviations from the authors' code (TsinghuaC3I/SoRA): the gates are a group of the one optimizer instead of a second
one, with the same schedule of the learning rate (theirs rounds the gates' warm-up down instead of up) and with eps
1e-6 added after the bias correction instead of before. All stages share the run's learning-rate schedule; theirs is
at 0 from the second stage on, where only the threshold acts. The task head trains; theirs stays frozen. They clip
gradients at 0.1 (`training.max_gradient_norm`), decay weights by 0.1 (`training.weight_decay`) and report the best
checkpoint. A list of thresholds, which fails in their release, cannot be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import SettingsError
from bench.requirements import NOT_NEGATIVE, POSITIVE, require_known, require_number, require_whole
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Part
    from methods.parts.gated_linear import GatedLinear

GATE_EPSILON = 1e-6
FIRST_STAGE_SHARE = 5 / 14
"""The authors' schedule: 50 epochs at the first threshold, then six times 15 at the others."""
SPACINGS = ("linear", "log_linear", "exp_linear")


def thresholds(spacing: str | None, xi: float, max_lambda: float, number: int) -> tuple[float, ...]:
    """The thresholds of all stages: `number` from `xi` to `max_lambda`; `xi` alone where `spacing` is None.

    "linear" spaces them evenly, "log_linear" their exponentials, "exp_linear" their logarithms.
    """
    if spacing is None:
        return (xi,)
    if spacing == "linear":
        values = np.linspace(xi, max_lambda, number)
    elif spacing == "log_linear":
        values = np.log(np.linspace(np.exp(xi), np.exp(max_lambda), number))
    else:
        values = np.exp(np.linspace(np.log(xi), np.log(max_lambda), number))
    return tuple(values.tolist())


@dataclass(frozen=True)
class Stages:
    """When which threshold holds: the first for `first` optimizer steps, the others for equal parts of the rest."""

    total_steps: int
    first: int
    thresholds: tuple[float, ...]

    @classmethod
    def of_run(cls, total_steps: int, first: int | None, thresholds: tuple[float, ...]) -> Stages:
        """The stages of a run of `total_steps`; None takes 5/14 of it, the share in the authors' script.

        Raises SettingsError where the first stage leaves nothing for the others.
        """
        if len(thresholds) == 1:
            return cls(total_steps, total_steps, thresholds)
        steps = int(FIRST_STAGE_SHARE * total_steps) if first is None else first
        if steps >= total_steps:
            raise SettingsError(f"method.first_stage={steps} leaves no step of the run's {total_steps} for the others.")
        return cls(total_steps, steps, thresholds)

    def index(self, step: int) -> int:
        """The stage of optimizer step `step`; the last step is always in the last, however short the run."""
        if step < self.first:
            return 0
        later = len(self.thresholds) - 1
        # Rounded up, so that a run of fewer steps than stages skips some on the way and not the last.
        return -(-(step + 1 - self.first) * later // (self.total_steps - self.first))

    def threshold(self, step: int) -> float:
        """xi after optimizer step `step`."""
        return self.thresholds[self.index(step)]

    def end_at(self, step: int) -> bool:
        """Whether a stage ends with optimizer step `step`."""
        return step + 1 == self.total_steps or self.index(step + 1) != self.index(step)


class Sora(LinearMethod):
    """Low-rank changes with gates on their components that training drives to zero.

    `rank`, `alpha`, `dropout` and `targets` are those of LoRA; `sparse_lambda` weighs the gates' L1 term, `xi` is
    their threshold and `prox` the operator; `sparse_lr` is their learning rate (None: that of the run). For
    `lambda_schedule`, `lambda_num`, `max_lambda` and `first_stage` see `thresholds` and `Stages`.
    """

    family = "low-rank"
    paper = "Ding et al. 2023, arXiv:2311.11696"

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        alpha: float,
        dropout: float,
        targets: Sequence[str],
        sparse_lambda: float,
        xi: float,
        prox: str,
        lambda_num: int,
        max_lambda: float,
        sparse_lr: float | None = None,
        lambda_schedule: str | None = None,
        first_stage: int | None = None,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.sparse_lambda = sparse_lambda
        self.xi = xi
        self.prox = prox
        self.sparse_lr = sparse_lr
        self.lambda_schedule = lambda_schedule
        self.lambda_num = lambda_num
        self.max_lambda = max_lambda
        self.first_stage = first_stage
        self._ended: list[tuple[float, Tensor]] = []
        """The threshold of every stage that is over, and the density at its end."""

    def check_settings(self) -> None:
        """Penalties must be at least 0, names known, and the schedule rising."""
        from methods.parts.proximal import OPERATORS

        require_number("method.sparse_lambda", self.sparse_lambda, NOT_NEGATIVE)
        require_number("method.xi", self.xi, NOT_NEGATIVE)
        require_known("method.prox", self.prox, OPERATORS)
        if self.sparse_lr is not None:
            require_number("method.sparse_lr", self.sparse_lr, POSITIVE)
        if self.first_stage is not None:
            require_whole("method.first_stage", self.first_stage, least=0)
        if self.lambda_schedule is not None:
            self._check_schedule(self.lambda_schedule)

    def _check_schedule(self, spacing: str) -> None:
        require_known("method.lambda_schedule", spacing, SPACINGS)
        require_whole("method.lambda_num", self.lambda_num, least=2)
        if self.max_lambda < self.xi:
            raise SettingsError(f"method.max_lambda={self.max_lambda} must be at least method.xi={self.xi}.")
        if spacing == "exp_linear" and self.xi == 0:
            raise SettingsError("method.xi=0 has no logarithm, which method.lambda_schedule=exp_linear needs.")

    def check_part(self, part: Part) -> None:
        """The rank must fit the target."""
        check_rank(self.rank, part)

    def plan_steps(self, total_steps: int) -> None:
        """Lay out the stages of the threshold."""
        values = thresholds(self.lambda_schedule, self.xi, self.max_lambda, self.lambda_num)
        self.stages = Stages.of_run(total_steps, self.first_stage, values)

    def adapted(self, part: Part) -> GatedLinear:
        """The target with its factors and its gate."""
        from methods.parts.adapted_linear import normal, uniform, zeros
        from methods.parts.gated_linear import GatedLinear
        from methods.parts.linear import in_out_features

        width_in, width_out = in_out_features(part.module)
        device = part.module.get_parameter("weight").device
        down = uniform(self.rank, width_in, device=device)
        up = zeros(width_out, self.rank, device=device)
        gate = normal(self.rank, device=device, std=1.0)
        return GatedLinear(part.module, down, up, gate, self.alpha / self.rank, self.dropout)

    @property
    def gates(self) -> list[nn.Parameter]:
        """The gates of all layers, (rank,) each."""
        return [layer.g for layer in self.layers.values()]

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """The gates apart: their own rate and eps, and no decay, which would undo their zeros."""
        from methods.parts.optimizer_groups import with_own_group

        rate = learning_rate if self.sparse_lr is None else self.sparse_lr
        groups = super().parameter_groups(learning_rate, weight_decay)
        return with_own_group(groups, self.gates, lr=rate, weight_decay=0.0, eps=GATE_EPSILON)

    def penalty(self) -> Tensor | None:
        """`sparse_lambda` times the mean of |g| over all gates."""
        from methods.parts.proximal import mean_magnitude

        return self.sparse_lambda * mean_magnitude(self.gates) if self.sparse_lambda > 0 else None

    def after_step(self, step: int) -> None:
        """Threshold the new gates; note the density where a stage ends."""
        from methods.parts.proximal import OPERATORS, apply_to_all

        xi = self.stages.threshold(step)
        if xi > 0:
            apply_to_all(OPERATORS[self.prox], self.gates, xi)
        if self.stages.end_at(step):
            self._ended.append((xi, self._density()))

    def _density(self) -> Tensor:
        """The share of gates that are not 0."""
        import torch

        stacked = torch.stack([gate.detach() for gate in self.gates])
        return stacked.count_nonzero() / stacked.numel()

    def report(self) -> dict[str, Any]:
        """The density, every layer's rank, and the factors' parameters that are left.

        The authors' count takes the model's width for both sides of a removed component, also where a feed-forward
        layer has four times as much on one, and leaves the gates out; `parameters_left` counts what is left exactly.
        """
        ranks = {name: int(layer.g.count_nonzero()) for name, layer in self.layers.items()}
        widths = {name: layer.in_features + layer.out_features for name, layer in self.layers.items()}
        full, left = self.rank * len(ranks), sum(ranks.values())
        parameters = self.rank * sum(widths.values())
        width = self.backbone.model.config.hidden_size
        return {
            "density": left / full,
            "ranks": ranks,
            "parameters_left": sum(ranks[name] * widths[name] for name in ranks),
            "official_parameters": parameters,
            "official_parameters_left": parameters - 2 * width * (full - left),
            "stages": [{"xi": xi, "density": float(density)} for xi, density in self._ended],
        }

    def state_dict(self) -> dict[str, Any]:
        """The stages that are over."""
        return {"stages": self._ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the stages back."""
        self._ended = list(state["stages"])
