"""Linear layers that train within a decomposition of their own weight, or around a small matrix between two factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.adapted_linear import AdaptedLinear, LowRankLinear, uniform, zeros
from methods.parts.decompositions import Factors
from methods.parts.linear import add_to_weight, in_out_features


class DiagonalLinear(AdaptedLinear):
    """A linear layer of which s L diag(d) R, a part of its weight, becomes s L diag(z) R with z trained.

    With the residual W0 - s L diag(d) R the weight is W_res + s L diag(z) R; the layer computes the same as
    W0 + s L diag(z - d) R. So no rounding of the factors, which make up the whole weight where the rank is full,
    reaches the output before z moves: the product of triangular factors in bfloat16 is off by several percent.

    L is `left` (out, rank), R `right` (rank, in), d `start` (rank,), s `scaling`; z begins at `initial` (rank,).
    """

    left: Tensor
    right: Tensor
    start: Tensor

    def __init__(
        self, base: nn.Module, left: Tensor, start: Tensor, right: Tensor, initial: Tensor, scaling: float = 1.0
    ) -> None:
        super().__init__(base)
        self.scaling = scaling
        self.z = nn.Parameter(initial)
        for name, tensor in {"left": left, "start": start, "right": right}.items():
            self.register_buffer(name, tensor, persistent=False)

    def shift(self) -> Tensor:
        """s (z - d), (rank,)."""
        return (self.z - self.start) * self.scaling

    def update(self, hidden: Tensor) -> Tensor:
        """s L diag(z - d) R x."""
        return functional.linear(functional.linear(hidden, self.right) * self.shift(), self.left)

    def delta_weight(self) -> Tensor:
        """s L diag(z - d) R, (out, in)."""
        return (self.left * self.shift()) @ self.right


class CoreLinear(LowRankLinear):
    """dW = s B C A with a square matrix C between the factors: A (rank, in), C (rank, rank), B (out, rank).

    The matrices named in `frozen` are buffers, the others parameters; `dropout` acts on the input of A.
    """

    C: Tensor

    def __init__(
        self, base: nn.Module, start: Factors, scaling: float, dropout: float = 0.0, frozen: Sequence[str] = ()
    ) -> None:
        super().__init__(base, scaling, dropout)
        for name, matrix in start._asdict().items():
            if name in frozen:
                self.register_buffer(name, matrix, persistent=False)
            else:
                self.register_parameter(name, nn.Parameter(matrix))

    def core(self, inner: Tensor) -> Tensor:
        """C z: (..., rank) to (..., rank)."""
        return functional.linear(inner, self.C)

    @torch.no_grad()
    def subtract_start(self) -> None:
        """Leave W0 - dW in the base layer's weight, so that the layer as a whole computes what `base` did."""
        add_to_weight(self.base, -self.delta_weight())


def random_start(base: nn.Module, rank: int) -> Factors:
    """No change of `base` at the start: A and C are drawn as LoRA's A, C over a fan of `rank`, and B is 0."""
    (width_in, width_out), device = in_out_features(base), base.get_parameter("weight").device
    start = uniform(rank, width_in, device), uniform(rank, rank, device), zeros(width_out, rank, device=device)
    return Factors(*(matrix.detach() for matrix in start))


class HeldColumns:
    """The leading columns of matrices, (out, rank) each, that an optimizer must not change any more.

    Zero gradients are not enough: AdamW's momentum and weight decay move what has none. `hold` zeroes them before the
    optimizer's step, `restore` puts the columns back after it.
    """

    def __init__(self, matrices: Sequence[nn.Parameter]) -> None:
        self._matrices = matrices
        self._counts: list[int] = []
        self._values: list[Tensor] = []

    @torch.no_grad()
    def hold(self, counts: Sequence[int]) -> None:
        """Hold the first `counts[i]` columns of matrix i where they are, for one step of the optimizer."""
        if list(counts) != self._counts:
            self._counts = list(counts)
            self._values = [column.clone() for column in self._columns()]
        gradients = _leading([_gradient(matrix) for matrix in self._matrices], counts)
        if gradients:
            torch._foreach_zero_(gradients)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the held columns back."""
        if self._values:
            torch._foreach_copy_(self._columns(), self._values)

    def _columns(self) -> list[Tensor]:
        return _leading([matrix.detach() for matrix in self._matrices], self._counts)


def _leading(matrices: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    return [matrix[:, :count] for matrix, count in zip(matrices, counts, strict=True) if count]


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
