"""A linear layer with a low-rank change whose components have a weight each, so that some can be switched off."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from methods.parts.adapted_linear import LowRankLinear


def pruned_factors(down: Tensor, up: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """A[K], (|K|, in), and B[:, K] diag(g_K), (out, |K|), for K = {i : g_i != 0}; their product is B diag(g) A.

    `down` is A (rank, in), `up` B (out, rank), `gate` g (rank,).
    """
    kept = gate.nonzero().flatten()
    return down[kept], up[:, kept] * gate[kept]


class GatedLinear(LowRankLinear):
    """dW = s B diag(g) A with A (rank, in), g (rank,) and B (out, rank), which the layer may share with others.

    A component whose gate is 0 leaves its row of A and its column of B without gradient, but g keeps its own.
    """

    def __init__(
        self,
        base: nn.Module,
        down: nn.Parameter,
        up: nn.Parameter,
        gate: nn.Parameter,
        scaling: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(base, scaling, dropout)
        self.A = down
        self.B = up
        self.g = gate

    def update(self, hidden: Tensor) -> Tensor:
        """s B (g * (A x)); the scale goes into the gate, which is the smallest tensor."""
        return functional.linear(functional.linear(hidden, self.A) * (self.g * self.scaling), self.B)

    def delta_weight(self) -> Tensor:
        """s B diag(g) A, (out, in), from the components that are left."""
        down, up = pruned_factors(self.A, self.B, self.g)
        return up @ down * self.scaling
