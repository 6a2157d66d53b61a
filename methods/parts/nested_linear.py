"""A linear layer with a low-rank change that can be cut off at any rank (DyLoRA)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.adapted_linear import AdaptedLinear, uniform, zeros


def truncated(down: Tensor, up: Tensor, rank: int, frozen: bool) -> tuple[Tensor, Tensor]:
    """The first `rank` rows of A, (rank, in), and columns of B, (out, rank); A is `down`, B `up`.

    `frozen` lets a gradient reach the last of them alone.
    """
    down, up = down[:rank], up[:, :rank]
    if frozen and rank > 1:
        down = torch.cat([down[:-1].detach(), down[-1:]])
        up = torch.cat([up[:, :-1].detach(), up[:, -1:]], dim=1)
    return down, up


class NestedLinear(AdaptedLinear):
    """dW = (alpha / b) B[:, :b] A[:b] with A (rank, in), B (out, rank) and 1 <= b <= rank.

    b is `training_rank` in training mode and `serving_rank` otherwise and when the layer is merged; both start at
    `rank`. A starts uniform as in LoRA, B at 0.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, frozen: bool, dropout: float = 0.0) -> None:
        super().__init__(base, dropout)
        self.alpha = alpha
        self.frozen = frozen
        self.training_rank = self.serving_rank = rank
        self.A = uniform(rank, self.in_features, device=self.device)
        self.B = zeros(self.out_features, rank, device=self.device)

    def update(self, hidden: Tensor) -> Tensor:
        """(alpha / b) B_b A_b x."""
        rank = self.training_rank if self.training else self.serving_rank
        down, up = truncated(self.A, self.B, rank, self.frozen and self.training)
        return functional.linear(functional.linear(hidden, down) * (self.alpha / rank), up)

    def delta_weight(self) -> Tensor:
        """(alpha / b) B_b A_b, (out, in), at the rank that is served."""
        down, up = truncated(self.A, self.B, self.serving_rank, frozen=False)
        return up @ down * (self.alpha / self.serving_rank)

    def untouched(self) -> Iterator[Tensor]:
        """The parts of A and B, as views, that the loss gives no gradient at the rank in training."""
        spans = [slice(self.training_rank, None)]
        if self.frozen:
            spans.append(slice(self.training_rank - 1))
        for span in spans:
            yield self.A.detach()[span]
            yield self.B.detach()[:, span]
