"""A linear layer with a trainable update in the form of a singular value decomposition (AdaLoRA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.linear import add_to_weight, in_out_features

INITIAL_STD = 0.02


class SVDLinear(nn.Module):
    """A frozen linear layer `base` and its update: y = W0 x + b + s B diag(E) A x with s = alpha / (rank + 1e-5).

    A is (rank, in), E (rank, 1), B (out, rank), all float32. A and B start normal, E at 0, so the layer starts as
    `base`. The divisor stays the initial rank however many entries of E are masked later: Zhang et al. 2023, section
    3.1, and `SVDLinear` of the authors' code.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        width_in, width_out = in_out_features(base)
        device = base.get_parameter("weight").device
        self.base = base
        self.scaling = alpha / (rank + 1e-5)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        # Drawn on the CPU, so that a seed gives the same start on every device.
        self.A = nn.Parameter((INITIAL_STD * torch.randn(rank, width_in)).to(device))
        self.E = nn.Parameter(torch.zeros(rank, 1, device=device))
        self.B = nn.Parameter((INITIAL_STD * torch.randn(width_out, rank)).to(device))
        self.train(base.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out), in the dtype of the base layer's output."""
        output = self.base(hidden)
        triplets = self.A * (self.E * self.scaling)
        update = functional.linear(functional.linear(self.dropout(hidden).to(self.A.dtype), triplets), self.B)
        return output + update.to(output.dtype)

    @property
    def weight(self) -> Tensor:
        """The base layer's weight: T5 looks at its type before it calls the layer."""
        return self.base.get_parameter("weight")

    def delta_weight(self) -> Tensor:
        """The update of the weight, (out, in), float32."""
        return self.B @ (self.A * self.E) * self.scaling

    def merged(self) -> nn.Module:
        """The base layer with the update added to its weight, in place."""
        add_to_weight(self.base, self.delta_weight())
        return self.base
