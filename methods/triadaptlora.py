"""TriAdaptLoRA: Brain-Inspired Triangular Adaptive Low-Rank Adaptation for Parameter-Efficient Fine-Tuning.

Liang, Wang and Zeng 2025, arXiv:2501.08008. Every target layer begins with a rank of `initial_rank`, and the layers
whose core's norm rises most gain ranks until the model has R* = rank * layers of them. A layer computes

    y = W0 x + b + s B C A x,    s = alpha / (r + 1e-5),    C = L + U,

with its present rank r and an r x r core of two triangles that grow by block rows C_row_j of L and block columns
C_col_j of U, next to rows of A and columns of B (`methods/parts/growing_core.py`). The loss gains gamma times the mean
of ||A A^T - I||_F and ||B^T B - I||_F over all layers. After the backward pass of optimizer step t, before the
optimizer moves anything, every `incre_interval` steps after `init_warmup` (t_i) and while R < R*:

- the score of a layer with J blocks is the change of N = ||C||_F / J since the last such event, or since the start;
- with mu = (t - t_i) / (T - t_i), the m layers with the largest scores and all that tie with them grow by
  `incre_rank_num`: m = int((R* - R) mu) for linear growth, m = int(exp(mu ln(R* - R))) for non-linear growth, at least
  one and at most all;
- what joins the optimizer is one group whose learning rate warms up anew and then falls over the steps that are left.

The model starts as the base model and growth leaves B C A as it is; what starts at 0 for that is `start`:

- core: A and both triangles of the first block, and A and C_row of a later block, from N(0, 0.02^2), the rest 0. A new
  C_row adds to ||C||_F by itself, so that a layer that grew tends to grow again;
- factors: A and B of every block from N(0, 0.02^2), C 0.

The first author's code for PEFT 0.4 (YaoLiang2023/DiverValue-Bench) has seven variants of this layer. The one whose
file ends in block_abc0 is followed but for these points. Only A of its first block is not 0 at the start, so that every
gradient of the layer is 0 and nothing is ever learned there; `start=factors` is its variant block_c0, otherwise the
same. Others start C at the identity, or have s = 2 throughout; which one the paper used is not known. A scheduler comes
with none: a new group follows IncreLoRA's rule. gamma is IncreLoRA's 0.1 instead of 0.5, new tensors get the run's
weight decay instead of none, and the steps are by default the shares of the run that IncreLoRA's scripts use instead of
every step. As there, R may end above R*, or below it where events are rare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.requirements import require_known
from methods.parts.growing_method import GrowingMethod

if TYPE_CHECKING:
    from bench.backbone.anatomy import Part
    from bench.backbone.pretrained import Backbone
    from methods.parts.growing_core import TriangularLinear

GROWTHS = ("linear", "non-linear")
STARTS = ("core", "factors")


def layers_to_grow(growth: str, missing: int, progress: float, layers: int) -> int:
    """m, with `missing` = R* - R (at least 1) and `progress` = mu, from 0 to 1; at least 1 and at most `layers`."""
    count = int(missing * progress) if growth == "linear" else int(math.exp(progress * math.log(missing)))
    return min(max(count, 1), layers)


class TriAdaptLora(GrowingMethod):
    """Low-rank updates with a triangular core that grow where its norm rises.

    `growth` is linear or non-linear, `start` core or factors, see the module. For the other settings see
    `GrowingMethod`.
    """

    family = "low-rank"
    paper = "Liang et al. 2025, arXiv:2501.08008"

    def __init__(self, *, growth: str, start: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.growth = growth
        self.start = start

    def check_settings(self) -> None:
        """Also the kinds of growth and of start must be known."""
        super().check_settings()
        require_known("method.growth", self.growth, GROWTHS)
        require_known("method.start", self.start, STARTS)

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Put the layers in place and evaluate their cores for the first time."""
        from methods.parts.growing_core import normalised_norms

        super().insert(backbone, total_steps)
        self.norms = normalised_norms(self.growing_layers)

    def adapted(self, part: Part) -> TriangularLinear:
        """The target with its first block."""
        from methods.parts.growing_core import TriangularLinear

        ranks = self.initial_rank, self.block_rank
        return TriangularLinear(part.module, *ranks, self.alpha, self.dropout, zero_core=self.start == "factors")

    def after_backward(self, step: int) -> None:
        """Grow as the schedule says."""
        from methods.parts.growing import largest
        from methods.parts.growing_core import normalised_norms

        if not (self.grows and self.steps.grows_at(step)):
            return
        norms = normalised_norms(self.growing_layers)
        scores, self.norms = norms - self.norms.to(norms.device), norms
        progress = (step - self.steps.init_warmup) / (self.steps.total_steps - self.steps.init_warmup)
        count = layers_to_grow(self.growth, self.budget - self.total_rank, progress, len(self.layers))
        self.grow(step, largest(scores, count))

    def state_dict(self) -> dict[str, Any]:
        """The growth events and the last evaluation of the cores."""
        return {**super().state_dict(), "norms": self.norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Grow as before, and take back the last evaluation."""
        super().load_state_dict(state)
        self.norms = state["norms"].clone()
