"""What methods have in common whose layers begin with a small rank and grow under a budget for the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from bench.requirements import NOT_NEGATIVE, require_number, require_whole
from bench.training.schedule import BEGINS
from methods.base import ADAPTER_FILE
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from bench.backbone.anatomy import Part
    from methods.parts.growing import GrowingLinear

INTERVAL_SHARE = 0.02


@dataclass(frozen=True)
class GrowthSteps:
    """After which backward passes ranks may grow, in optimizer steps; the names are those of the authors' code."""

    total_steps: int
    init_warmup: int
    incre_interval: int

    @classmethod
    def of_run(cls, total_steps: int, init_warmup: int | None, incre_interval: int | None) -> GrowthSteps:
        """The steps of a run of `total_steps`; None takes the share of it that IncreLoRA's GLUE scripts use.

        The interval is 2 % of the run (at least one step), the median of the scripts, and the warm-up one interval, as
        in all of them. Raises SettingsError where given numbers leave no step to grow at.
        """
        interval = max(1, round(INTERVAL_SHARE * total_steps)) if incre_interval is None else incre_interval
        steps = cls(total_steps, interval if init_warmup is None else init_warmup, interval)
        if (init_warmup, incre_interval) != (None, None) and not steps.count_before(total_steps):
            raise SettingsError(
                f"method.init_warmup={steps.init_warmup} and method.incre_interval={interval} leave no step to grow at "
                f"in a run of {total_steps} steps."
            )
        return steps

    def grows_at(self, step: int) -> bool:
        """Whether ranks may grow at optimizer step `step`."""
        return step > self.init_warmup and step % self.incre_interval == 0

    def count_before(self, step: int) -> int:
        """At how many of the steps before `step` ranks may grow."""
        return sum(self.grows_at(earlier) for earlier in range(step))


class GrowingMethod(LinearMethod):
    """Low-rank updates that grow by `incre_rank_num` ranks at a time until they have `rank` on average.

    `initial_rank` is every layer's rank at the start; `incre_rank_num` is half of `rank`, rounded down, where it is
    None; `alpha`, `dropout` and `targets` are those of LoRA; `orthogonality_weight` is the factor of the mean of
    ||A A^T - I||_F and ||B^T B - I||_F over all layers, added to the loss. For the schedule see `GrowthSteps`.

    A growth event adds its new tensors to the optimizer as one group, with a warm-up of its own from the next step on.
    """

    layers: dict[str, GrowingLinear]

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        initial_rank: int,
        incre_rank_num: int | None,
        alpha: float,
        dropout: float,
        targets: Sequence[str],
        orthogonality_weight: float,
        init_warmup: int | None,
        incre_interval: int | None,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.initial_rank = initial_rank
        self.incre_rank_num = incre_rank_num
        self.alpha = alpha
        self.dropout = dropout
        self.orthogonality_weight = orthogonality_weight
        self.phases = {"init_warmup": init_warmup, "incre_interval": incre_interval}
        self.steps: GrowthSteps
        self.events: list[dict[str, Any]] = []
        """What grew when, in order: `step`, and `layers`, positions in `self.layers`."""
        self._group: dict[str, float] = {}

    def check_settings(self) -> None:
        """Ranks must grow, steps lie in their ranges."""
        require_whole("method.initial_rank", self.initial_rank)
        require_whole("method.rank", self.rank, self.initial_rank, "method.initial_rank")
        for name, value in {"incre_rank_num": self.incre_rank_num, **self.phases}.items():
            if value is not None:
                require_whole(f"method.{name}", value, least=0 if name == "init_warmup" else 1)
        require_number("method.orthogonality_weight", self.orthogonality_weight, NOT_NEGATIVE)

    def check_part(self, part: Part) -> None:
        """The average rank and what a layer gains at a time must fit the target."""
        check_rank(self.rank, part)
        check_rank(self.block_rank, part, "incre_rank_num")

    def plan_steps(self, total_steps: int) -> None:
        """Lay out when ranks may grow."""
        self.steps = GrowthSteps.of_run(total_steps, **self.phases)

    @property
    def growing_layers(self) -> list[GrowingLinear]:
        """The adapted layers in the order by which events number them."""
        return list(self.layers.values())

    @property
    def block_rank(self) -> int:
        """How many ranks a layer gains in one event."""
        return max(1, self.rank // 2) if self.incre_rank_num is None else self.incre_rank_num

    @property
    def budget(self) -> int:
        """R*, the total rank at which growth ends; the last event may go beyond it."""
        return self.rank * len(self.layers)

    @property
    def total_rank(self) -> int:
        """R, the present total rank."""
        return sum(layer.rank for layer in self.layers.values())

    @property
    def grows(self) -> bool:
        """Whether the budget is not yet used up."""
        return self.total_rank < self.budget

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """The usual groups; those that join later get the same rate and weight decay."""
        self._group = {"lr": learning_rate, "weight_decay": weight_decay}
        return super().parameter_groups(learning_rate, weight_decay)

    def compute_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The task loss with the orthogonality term, and without; all layers' factors are put together at once."""
        from methods.parts.growing import joined, mean_orthogonality

        with joined(self.growing_layers) as groups:
            task_loss, _ = super().compute_loss(model, batch)
        if not self.orthogonality_weight:
            return task_loss, task_loss
        return task_loss + self.orthogonality_weight * mean_orthogonality(groups), task_loss

    def grow(self, step: int, positions: Sequence[int]) -> None:
        """One growth event: extend the layers at `positions`; what is to train joins the optimizer as one group."""
        random, layers = self.random(step), self.growing_layers
        grown = [layers[position] for position in positions]
        joining = [tensor for layer in grown for tensor in layer.extend(random)]
        self._added += [tensor for layer in grown for tensor in layer.parts[-1].parameters()]
        if joining:
            self.optimizer.add_param_group({"params": joining, **self._group, BEGINS: step + 1})
        self.events.append({"step": step, "layers": list(positions)})

    def report(self) -> dict[str, Any]:
        """Every layer's rank, their sum and its budget, and the step of the last growth (None without any)."""
        grown = [event["step"] for event in self.events if event["step"] > 0]
        return {
            "ranks": {name: layer.rank for name, layer in self.layers.items()},
            "total_rank": self.total_rank,
            "budget": self.budget,
            "last_growth_step": max(grown, default=None),
        }

    def state_dict(self) -> dict[str, Any]:
        """The growth events: the tensors and optimizer groups that they made are made again from them."""
        return {"events": self.events}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Grow as the interrupted run did; the tensors' values come from its checkpoint."""
        for event in state["events"]:
            self.grow(event["step"], event["layers"])

    def load(self, folder: Path) -> None:
        """Grow to the ranks of the saved adapter, then read it."""
        from safetensors.torch import load_file

        stored = load_file(folder / ADAPTER_FILE)
        for name, layer in self.layers.items():
            prefix = f"{name}."
            layer.grow_to([key.removeprefix(prefix) for key in stored if key.startswith(prefix)], self.random(0))
            self._added += [tensor for part in layer.parts for tensor in part.parameters()]
        super().load(folder)
