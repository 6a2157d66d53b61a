"""DyLoRA: Parameter-Efficient Tuning of Pre-trained Models using Dynamic Search-Free Low-Rank Adaptation.

Valipour et al. 2023, arXiv:2210.07558. One low-rank change that serves at every rank up to the one it was trained
with: its components are sorted by importance because training cuts them off at random. Every target layer computes
y = W0 x + b + (alpha / b) B[:, :b] A[:b] x with A (R, in), B (out, R), R = `rank`, A uniform as in LoRA and B = 0
(`methods/parts/nested_linear.py`). Before every optimizer step one b for all layers is drawn evenly from 1 ... R. The
gradient reaches row b of A and column b of B alone with `frozen`, which the authors' GLUE script uses, and rows and
columns 1 ... b without. Rows and columns beyond have a gradient of exactly 0, but AdamW's momentum and weight decay
still move them, as in the authors' code; `mask_optimizer` leaves them where they are.

Outside training the model runs at `serve_rank`, R by default, which `finish` merges; every other rank is a form of
the trained model with a score of its own.

Deviations from the authors' code (huawei-noah/Efficient-NLP, DyLoRA): it scales A and B by sqrt(R / b) each and their
product by alpha / R; here is the product of the three, which has the same values and gradients. It evaluates at
whatever b was drawn last and clamps a rank out of range; here evaluation has its own rank, and such a rank is refused.
The authors start MRPC, STS-B and RTE from a model trained on MNLI, and decay weights by 0.1 (`training.weight_decay`).
Of the distributions of b in the paper only the even one, which their code has, is offered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.errors import SettingsError
from bench.requirements import require_whole
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbone.anatomy import Part
    from methods.parts.nested_linear import NestedLinear


class DyLora(LinearMethod):
    """Low-rank changes trained for every rank up to `rank` at once.

    `alpha`, `dropout` and `targets` are those of LoRA. `frozen` trains one component per step, `mask_optimizer` keeps
    the optimizer from moving the others; `serve_rank` is the rank that is scored and merged (None: `rank`).
    """

    family = "low-rank"
    paper = "Valipour et al. 2023, arXiv:2210.07558"

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        alpha: float,
        dropout: float,
        targets: Sequence[str],
        frozen: bool,
        mask_optimizer: bool,
        serve_rank: int | None = None,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.frozen = frozen
        self.mask_optimizer = mask_optimizer
        self.serve_rank = rank if serve_rank is None else serve_rank
        self._kept: list[Tensor] = []

    def check_settings(self) -> None:
        """The rank that is served must be one of those that are trained."""
        require_whole("method.serve_rank", self.serve_rank)
        if self.serve_rank > self.rank:
            raise SettingsError(f"method.serve_rank={self.serve_rank} must be at most method.rank={self.rank}.")

    def check_part(self, part: Part) -> None:
        """The largest rank must fit the target."""
        check_rank(self.rank, part)

    def adapted(self, part: Part) -> NestedLinear:
        """The target with its factors, at the rank that is served."""
        from methods.parts.nested_linear import NestedLinear

        layer = NestedLinear(part.module, self.rank, self.alpha, self.frozen, self.dropout)
        layer.serving_rank = self.serve_rank
        return layer

    def rank_of_step(self, step: int) -> int:
        """b of optimizer step `step`: even over 1 ... R, the same in every process and after a resume."""
        return int(self.random(step).integers(1, self.rank + 1))

    def before_step(self, step: int) -> None:
        """Set the step's rank in all layers."""
        rank = self.rank_of_step(step)
        for layer in self.layers.values():
            layer.training_rank = rank

    def after_backward(self, step: int) -> None:
        """With `mask_optimizer`, remember what this step may not change."""
        import torch

        if self.mask_optimizer:
            self._kept = list(torch._foreach_clone(self._untouched()))

    def after_step(self, step: int) -> None:
        """Put it back."""
        import torch

        if self.mask_optimizer:
            torch._foreach_copy_(self._untouched(), self._kept)
            self._kept = []

    def _untouched(self) -> list[Tensor]:
        return [part for layer in self.layers.values() for part in layer.untouched()]

    @property
    def forms(self) -> tuple[str, ...]:
        """Every rank but the one that is served anyway, as "rank=1"."""
        return tuple(name for name, rank in self._ranks.items() if rank != self.serve_rank)

    @contextlib.contextmanager
    def form(self, name: str) -> Iterator[None]:
        """The model runs at the named rank, such as "rank=3". Raises ValueError for a rank that it does not have."""
        if name not in self._ranks:
            raise ValueError(f"{name} is no form of a model of rank {self.rank}")
        self._serve(self._ranks[name])
        try:
            yield
        finally:
            self._serve(self.serve_rank)

    @property
    def _ranks(self) -> dict[str, int]:
        return {f"rank={rank}": rank for rank in range(1, self.rank + 1)}

    def _serve(self, rank: int) -> None:
        for layer in self.layers.values():
            layer.serving_rank = rank
