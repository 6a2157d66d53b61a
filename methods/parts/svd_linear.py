"""A linear layer with a trainable update in the form of a singular value decomposition (AdaLoRA)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from methods.parts.adapted_linear import AdaptedLinear, normal, zeros


class SVDLinear(AdaptedLinear):
    """A frozen linear layer and its update: y = W0 x + b + s B diag(E) A x with s = alpha / (rank + 1e-5).

    A is (rank, in), E (rank, 1), B (out, rank). A and B start normal, E at 0, so the layer starts as `base`. The
    divisor stays the initial rank however many entries of E are masked later: Zhang et al. 2023, section 3.1, and
    `SVDLinear` of the authors' code.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(base, dropout)
        self.scaling = alpha / (rank + 1e-5)
        self.A = normal(rank, self.in_features, device=self.device)
        self.E = zeros(rank, 1, device=self.device)
        self.B = normal(self.out_features, rank, device=self.device)

    def update(self, hidden: Tensor) -> Tensor:
        """s B diag(E) A x; the small factors are multiplied first."""
        return functional.linear(functional.linear(hidden, self.A * (self.E * self.scaling)), self.B)

    def delta_weight(self) -> Tensor:
        """s B diag(E) A, (out, in)."""
        return self.B @ (self.A * self.E) * self.scaling
