"""A frozen linear layer with a trained change of its weight, and the factors that most such changes are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.linear import add_to_weight, in_out_features


class AdaptedLinear(nn.Module):
    """y = W0 x + b + dW dropout(x): a frozen linear layer `base` and its change.

    A subclass says how the change acts (`update`) and what it is (`delta_weight`); its own tensors are float32. They
    are drawn on the CPU, so that a seed gives the same start on every device, and moved to `device`.
    """

    def __init__(self, base: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = in_out_features(base)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.train(base.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out), in the dtype of the base layer's output."""
        output: Tensor = self.base(hidden)
        return output + self.update(self.dropout(hidden).to(torch.float32)).to(output.dtype)

    def update(self, hidden: Tensor) -> Tensor:
        """dW x: (..., in) to (..., out)."""
        return functional.linear(hidden, self.delta_weight())

    def delta_weight(self) -> Tensor:
        """dW, (out, in), float32."""
        raise NotImplementedError

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight, in place."""
        add_to_weight(self.base, self.delta_weight())
        return self.base

    @property
    def device(self) -> torch.device:
        """Where the base layer's weight is."""
        return self.weight.device

    @property
    def weight(self) -> Tensor:
        """The base layer's weight: T5 looks at its type before it calls the layer."""
        return self.base.get_parameter("weight")


class LowRankLinear(AdaptedLinear):
    """dW = s B C A with A (rank, in), B (out, rank) and, by default, C the identity; s is `scaling`.

    A subclass may put anything between the factors (`core`), which must be linear, or make A and B anew in every pass
    (`factors`).
    """

    A: Tensor
    B: Tensor

    def __init__(self, base: nn.Module, scaling: float, dropout: float = 0.0) -> None:
        super().__init__(base, dropout)
        self.scaling = scaling

    def factors(self) -> tuple[Tensor, Tensor]:
        """A, (rank, in), and B, (out, rank)."""
        return self.A, self.B

    def core(self, inner: Tensor) -> Tensor:
        """C z: (..., rank) to (..., rank)."""
        return inner

    def update(self, hidden: Tensor) -> Tensor:
        """s B C A x."""
        down, up = self.factors()
        return functional.linear(self.core(functional.linear(hidden, down)) * self.scaling, up)

    def delta_weight(self) -> Tensor:
        """s B C A: the core acts on the rows of A^T as it does on A x."""
        down, up = self.factors()
        return up @ self.core(down.mT).mT * self.scaling


def uniform(rows: int, columns: int, device: torch.device, fan_in: int | None = None) -> nn.Parameter:
    """LoRA's start of A: U(-1, 1) / sqrt(fan_in), of `kaiming_uniform_` with a = sqrt(5); the fan is `columns`."""
    bound = (columns if fan_in is None else fan_in) ** -0.5
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound).to(device))


def normal(*shape: int, device: torch.device, std: float = 0.02) -> nn.Parameter:
    """A tensor of independent normal numbers."""
    return nn.Parameter((std * torch.randn(shape)).to(device))


def zeros(*shape: int, device: torch.device) -> nn.Parameter:
    """A tensor of zeros."""
    return nn.Parameter(torch.zeros(shape, device=device))
