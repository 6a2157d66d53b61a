"""IncreLoRA: Incremental Parameter Allocation Method for Parameter-Efficient Fine-tuning.

Zhang et al. 2023, arXiv:2308.12043. Every target layer begins with a rank of `initial_rank` and the layers whose change
matters most gain ranks, until the model has R* = rank * layers of them. A layer computes

    y = W0 x + b + dW x,    dW = s B diag(E) A,    s = alpha / (r + 1e-5),

with its present rank r (`methods/parts/growing_triplets.py`). The loss gains gamma times the mean of ||A A^T - I||_F
and ||B^T B - I||_F over all layers. After the backward pass of optimizer step t, before the optimizer moves anything:

- t = 0: every layer gets a reserve of `incre_rank_num` triplets ahead of need ("advance learning"): A and B train while
  E stays at 1e-5, so that they are in place when the layer grows;
- while R < R*: with G = dL/d(dW) of the task loss, I = sum |dW * G| / sqrt(out * in) of every layer goes into the
  averages Ibar = beta1 Ibar + (1 - beta1) I and Ubar = beta2 Ubar + (1 - beta2) |I - Ibar|;
- every `incre_interval` steps after `init_warmup`: the min(top_h, R* - R) layers with the largest Ibar * Ubar grow by
  their reserve, whose E trains from the next step on, and get a new one. What joins the optimizer at t is one group
  whose learning rate warms up anew and then falls over the T - (t + 1) steps that are left;
- once R >= R*: E of every reserve is 0 from then on, and G is no longer needed.

While ranks grow, a step costs one product more per layer than LoRA's, as large as that of a weight's gradient, and
the step's end finds a gradient of every target weight's size in memory.

The authors' code (FeiyuZhang98/IncreLoRA) is followed but for these points. It makes dW in the forward pass to get G;
here G is computed from the layer's input and the gradient of its output, summed over the micro-batches of a step,
averaged over the processes and freed of half precision's loss scale. It zeroes the reserves only where R = R*, so that
they act to the end where the last event goes beyond R*; here R >= R* retires them. Where R* is not reached, E of the
reserves becomes 0 after the last step, so that the trained, the saved and the merged model agree; a saved adapter
leaves such reserves out. The steps are shares of the run by default, and `top_h` follows from them: as many layers per
event as let growth end after 36 % of the run, the median of the authors' GLUE scripts, where all layers together can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.requirements import INNER_SHARE, require_number, require_whole
from methods.parts.growing_method import GrowingMethod, GrowthSteps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Part
    from bench.backbone.pretrained import Backbone
    from methods.parts.growing_triplets import TripletLinear

GROWTH_SHARE = 0.36


def layers_per_event(steps: GrowthSteps, layers: int, growths: int) -> int:
    """The least `top_h` that has `growths` single growths done in the first 36 % of the run, at most all layers."""
    events = max(1, steps.count_before(math.floor(GROWTH_SHARE * steps.total_steps) + 1))
    return min(layers, max(1, math.ceil(growths / events)))


class IncreLora(GrowingMethod):
    """Low-rank updates in SVD form that grow where their change matters.

    `top_h` is how many layers grow in an event (None: see `layers_per_event`); `beta1` and `beta2` smooth the
    importance; without `advance_learning` a reserve is idle and untrained until its layer grows. For the other settings
    see `GrowingMethod`.
    """

    family = "low-rank"
    paper = "Zhang et al. 2023, arXiv:2308.12043"
    layers: dict[str, TripletLinear]  # type: ignore[assignment]

    def __init__(
        self,
        *,
        beta1: float,
        beta2: float,
        top_h: int | None = None,
        advance_learning: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.betas = (beta1, beta2)
        self.top_h = top_h
        self.advance_learning = advance_learning

    def check_settings(self) -> None:
        """Also `top_h` and the averages must lie in their ranges."""
        super().check_settings()
        if self.top_h is not None:
            require_whole("method.top_h", self.top_h)
        for name, beta in zip(("beta1", "beta2"), self.betas, strict=True):
            require_number(f"method.{name}", beta, INNER_SHARE)

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Put the layers in place and settle how many grow at a time."""
        from methods.parts.growing_triplets import LayerImportance

        super().insert(backbone, total_steps)
        self.importance = LayerImportance(list(self.layers.values()), *self.betas)
        if self.top_h is None:
            growths = math.ceil((self.budget - self.total_rank) / self.block_rank)
            self.top_h = layers_per_event(self.steps, len(self.layers), growths)
        self._watch()

    def adapted(self, part: Part) -> TripletLinear:
        """The target with its first triplets."""
        from methods.parts.growing_triplets import TripletLinear

        rank, block = self.initial_rank, self.block_rank
        return TripletLinear(part.module, rank, block, self.alpha, self.dropout, self.advance_learning)

    def before_step(self, step: int) -> None:
        """The gradients of dW are those of one step."""
        self.importance.forget()

    def compute_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The usual losses; the backward pass shows how it scales the task's."""
        loss, task_loss = super().compute_loss(model, batch)
        if self.grows:
            self.importance.watch(task_loss)
        return loss, task_loss

    def after_backward(self, step: int) -> None:
        """Score with this step's gradients, then grow as the schedule says."""
        from methods.parts.growing import largest

        if self.grows:
            self.importance.update()
        if step == 0:
            self.grow(0, range(len(self.layers)))
        elif self.grows and self.steps.grows_at(step):
            assert self.top_h is not None
            count = min(self.top_h, self.budget - self.total_rank, len(self.layers))
            self.grow(step, largest(self.importance.scores(), count))
        if not self.grows and self._reserves_act:
            self._retire_reserves()

    def after_step(self, step: int) -> None:
        """A reserve that never came to count is no part of the trained model."""
        if step == self.steps.total_steps - 1 and self._reserves_act:
            self._retire_reserves()

    @property
    def _reserves_act(self) -> bool:
        return any(layer.reserve_acts for layer in self.layers.values())

    def _retire_reserves(self) -> None:
        for layer in self.layers.values():
            layer.retire_reserve()
        self._watch()

    def _watch(self) -> None:
        """Gradients of dW are collected for as long as ranks grow."""
        for layer in self.layers.values():
            layer.watched = self.grows

    def stored_tensors(self) -> dict[str, Tensor]:
        """The method's own parameters but for reserves that no longer act."""
        idle = tuple(f"{name}.reserve." for name, layer in self.layers.items() if not layer.reserve_acts)
        return {name: tensor for name, tensor in super().stored_tensors().items() if not name.startswith(idle)}

    def state_dict(self) -> dict[str, Any]:
        """The growth events, the importance averages, and whether the reserves still act."""
        return {**super().state_dict(), **self.importance.state_dict(), "reserves_act": self._reserves_act}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Grow as before, and take back the averages."""
        super().load_state_dict(state)
        self.importance.load_state_dict({name: state[name] for name in ("sensitivity", "uncertainty")})
        if not state["reserves_act"]:
            self._retire_reserves()
