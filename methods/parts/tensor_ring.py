"""Matrices in tensor-ring form, and linear layers whose input such a matrix transforms (TLoRA, Tao et al. 2025).

With rows numbered (i_1 .. i_D) and columns (j_1 .. j_D), the first index slowest, cores A_d of (I_d, J_d, R, R) make

    T[(i_1 .. i_D), (j_1 .. j_D)] = trace(A_1[i_1, j_1] A_2[i_2, j_2] ... A_D[i_D, j_D]).

With R = 1, where a core may lack its last two dimensions, T is the Kronecker product of the cores.

T is applied without being built, by two products of the vector: with the first core, and with that of the others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.adapted_linear import AdaptedLinear, normal, zeros
from methods.parts.linear import weight_of


def as_ring(core: Tensor) -> Tensor:
    """A core of (I, J, R, R); a Kronecker factor, (I, J), is one of R = 1."""
    return core if core.ndim == 4 else core[..., None, None]


def joined(first: Tensor, second: Tensor) -> Tensor:
    """The core of (I I', J J', R, R) that stands for two neighbours in the ring."""
    product = torch.einsum("ijab,klbc->ikjlac", first, second)
    return product.flatten(2, 3).flatten(0, 1)


def ring_product(cores: Sequence[Tensor], vectors: Tensor) -> Tensor:
    """T x for vectors of (..., prod J_d), without T: (..., prod I_d), in float32 whatever autocast says.

    With P the first core and Q the core of all others: sum over j, l, a, b of P[i, j, a, b] Q[k, l, b, a] x[j, l].
    """
    with torch.autocast(vectors.device.type, enabled=False):
        first, *rest = [as_ring(core) for core in cores]
        others = functools.reduce(joined, rest)
        outer = first.permute(0, 3, 2, 1).flatten(0, 2)
        inner = others.permute(0, 2, 3, 1).flatten(1)
        grouped = vectors.to(torch.float32).reshape(-1, first.shape[1], others.shape[1])
        product = cast(Tensor, _Contracted.apply(grouped, outer, inner))  # type: ignore[no-untyped-call]
    return product.view(*vectors.shape[:-1], -1)


class _Contracted(torch.autograd.Function):
    """Vectors (n, j, l) times `outer`, (i b a, j), and the result, (n, i, b a l), times `inner`, (k, b a l).

    It keeps the vectors, which other layers often share, and computes what lies between the products anew.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, outer, inner)
        return _for_each(outer, vectors).view(-1, inner.shape[1]) @ inner.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        vectors, outer, inner = ctx.saved_tensors
        of_inner = gradients[0].mT @ _for_each(outer, vectors).view(-1, inner.shape[1])
        between = (gradients[0] @ inner).view(len(vectors), len(outer), -1)
        of_outer = torch.bmm(between, vectors.mT).sum(0)
        return _for_each(outer.mT, between) if ctx.needs_input_grad[0] else None, of_outer, of_inner


def _for_each(matrix: Tensor, groups: Tensor) -> Tensor:
    """One matrix, (i, j), times each of (n, j, l)."""
    return torch.bmm(matrix.expand(len(groups), -1, -1), groups)


def transposed(cores: Iterable[Tensor]) -> list[Tensor]:
    """The cores of T^T."""
    return [core.transpose(0, 1) for core in cores]


def ring_matrix(cores: Sequence[Tensor]) -> Tensor:
    """T itself, (prod I_d, prod J_d)."""
    whole = functools.reduce(joined, [as_ring(core) for core in cores])
    return whole.diagonal(dim1=-2, dim2=-1).sum(-1)


def ring_rows(cores: Sequence[Tensor]) -> Tensor:
    """The products C_1[j_1] ... C_D[j_D] of cores of (J_d, R, R), (prod J_d, R, R)."""
    return functools.reduce(lambda first, second: torch.einsum("iab,jbc->ijac", first, second).flatten(0, 1), cores)


def identity_cores(shape: Sequence[int], rank: int) -> list[Tensor]:
    """Cores of which every (a, b) slice is I / R, so that T is the identity; plain (I, I) matrices for R = 1."""
    if rank == 1:
        return [torch.eye(size) for size in shape]
    return [torch.eye(size)[..., None, None].repeat(1, 1, rank, rank) / rank for size in shape]


def stacked(cores: Iterable[Tensor]) -> list[Tensor]:
    """The cores of every shape as one tensor, (n, *shape)."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for core in cores:
        by_shape.setdefault(core.shape, []).append(core)
    return [torch.stack(alike) for alike in by_shape.values()]


def identity_distance(cores: Tensor) -> Tensor:
    """R_I: the sum over a, b of ||A[:, :, a, b] - I / R||_F over stacked cores of one shape, (n, I, I[, R, R])."""
    cores = cores if cores.ndim == 5 else cores[..., None, None]
    identity = torch.eye(cores.shape[1], device=cores.device)[..., None, None] / cores.shape[-1]
    return torch.linalg.vector_norm(cores - identity, dim=(1, 2)).sum()


def orthogonality_distance(cores: Tensor) -> Tensor:
    """R_O: the sum over i, j of ||sum_l A[i, l] (x) A[j, l] - [i = j] 1 / R^2||_F over stacked cores of one shape.

    The cores of T T^T are these sums; it is the identity where every one equals the matrix of 1 / R^2 for i = j.
    """
    cores = cores if cores.ndim == 5 else cores[..., None, None]
    products = torch.einsum("nilab,njlcd->nijacbd", cores, cores)
    identity = torch.eye(cores.shape[1], device=cores.device) / cores.shape[-1] ** 2
    return torch.linalg.vector_norm(products - identity[..., None, None, None, None], dim=(3, 4, 5, 6)).sum()


class RingTransform(nn.Module):
    """T of a width that is the product of `shape`, from the identity; tensor-ring rank 1 is a Kronecker product."""

    def __init__(self, shape: Sequence[int], rank: int, device: torch.device) -> None:
        super().__init__()
        self.cores = nn.ParameterList(core.to(device) for core in identity_cores(shape, rank))

    def forward(self, vectors: Tensor) -> Tensor:
        """T x: (..., width) to (..., width), in float32: in half precision little would be left of T beside I."""
        return ring_product(list(self.cores), vectors)

    def after(self, weight: Tensor) -> Tensor:
        """W T: (out, width) to (out, width)."""
        return ring_product(transposed(self.cores), weight)


class Residual(nn.Module):
    """s D, the residual with its scaling; `shape_in` and `shape_out` have the widths for their products."""

    def __init__(
        self, shape_in: Sequence[int], shape_out: Sequence[int], rank: int, scaling: float, device: torch.device
    ) -> None:
        super().__init__()
        self.scaling = scaling
        self.add_tensors(shape_in, shape_out, rank, device)

    def add_tensors(self, shape_in: Sequence[int], shape_out: Sequence[int], rank: int, device: torch.device) -> None:
        """Add what D is made of, so that D starts at 0."""
        raise NotImplementedError

    def forward(self, hidden: Tensor) -> Tensor:
        """s D x: (..., in) to (..., out)."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """s D, (out, in)."""
        raise NotImplementedError


class LowRankResidual(Residual):
    """D = B A, as in LoRA: A (rank, in) starts normal with the variance 1 / (3 in) of `kaiming_normal_`, B at 0."""

    def add_tensors(self, shape_in: Sequence[int], shape_out: Sequence[int], rank: int, device: torch.device) -> None:
        """Add A and B."""
        width_in, width_out = math.prod(shape_in), math.prod(shape_out)
        self.A = normal(rank, width_in, device=device, std=(3 * width_in) ** -0.5)
        self.B = zeros(width_out, rank, device=device)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A, (inner, in), and B, (out, inner)."""
        return self.A, self.B

    def forward(self, hidden: Tensor) -> Tensor:
        """s B A x: (..., in) to (..., out)."""
        down, up = self.factors()
        return functional.linear(functional.linear(hidden, down) * self.scaling, up)

    def matrix(self) -> Tensor:
        """s B A, (out, in)."""
        down, up = self.factors()
        return up @ down * self.scaling


class RingResidual(LowRankResidual):
    """D[(j), (i)] = trace(C_1[j_1] ... C_D[j_D] E_1[i_1] ... E_D[i_D]), cores C_d of (J_d, r, r), E_d of (I_d, r, r).

    C_1 starts at 0, the other C_d with standard deviation sqrt(J_d) / r^2, the E_d with 1 / sqrt(I_d). It is B A with
    inner width r^2: B has the products of the C_d for its rows, A^T those of the E_d, transposed.
    """

    def add_tensors(self, shape_in: Sequence[int], shape_out: Sequence[int], rank: int, device: torch.device) -> None:
        """Add the cores C and E."""
        first, *rest = shape_out
        later = [normal(size, rank, rank, device=device, std=size**0.5 / rank**2) for size in rest]
        self.C = nn.ParameterList([zeros(first, rank, rank, device=device), *later])
        self.E = nn.ParameterList([normal(size, rank, rank, device=device, std=size**-0.5) for size in shape_in])

    def factors(self) -> tuple[Tensor, Tensor]:
        """A, (r^2, in), and B, (out, r^2)."""
        return ring_rows(list(self.E)).mT.flatten(1).mT, ring_rows(list(self.C)).flatten(1)


class RingMatrixResidual(Residual):
    """D is a tensor-ring matrix of cores of (J_d, I_d, r, r).

    The first core starts at 0, the others normal with the variance 1 / (3 I_d r^2) of `kaiming_normal_`.
    """

    def add_tensors(self, shape_in: Sequence[int], shape_out: Sequence[int], rank: int, device: torch.device) -> None:
        """Add the cores."""
        (rows, columns), *rest = zip(shape_out, shape_in, strict=True)
        later = [normal(j, i, rank, rank, device=device, std=(3 * i * rank**2) ** -0.5) for j, i in rest]
        self.cores = nn.ParameterList([zeros(rows, columns, rank, rank, device=device), *later])

    def scaled_cores(self) -> list[Tensor]:
        """The cores of s D."""
        first, *rest = self.cores
        return [first * self.scaling, *rest]

    def forward(self, hidden: Tensor) -> Tensor:
        """s D x: (..., in) to (..., out)."""
        return ring_product(self.scaled_cores(), hidden)

    def matrix(self) -> Tensor:
        """s D, (out, in)."""
        return ring_matrix(self.scaled_cores())


RESIDUALS: Mapping[str, type[Residual]] = {"lora": LowRankResidual, "tr": RingResidual, "ttm": RingMatrixResidual}


class TransformedLinear(AdaptedLinear):
    """A frozen linear layer with W = W0 T + s D: y = W0 (T x) + b + s D x.

    The widths are the products of `shape_in` and `shape_out`; without a `transform_rank` T is left out; `residual`
    names D in `RESIDUALS`, of rank `rank`.
    """

    def __init__(
        self,
        base: nn.Module,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        transform_rank: int,
        residual: str,
        rank: int,
        scaling: float,
    ) -> None:
        super().__init__(base)
        self.transform = RingTransform(shape_in, transform_rank, self.device) if transform_rank else None
        self.residual = RESIDUALS[residual](shape_in, shape_out, rank, scaling, self.device)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out), in the dtype of the base layer's output."""
        moved = hidden if self.transform is None else self.transform(hidden).to(hidden.dtype)
        output: Tensor = self.base(moved)
        return output + self.residual(hidden.to(torch.float32)).to(output.dtype)

    def delta_weight(self) -> Tensor:
        """W0 T + s D - W0, (out, in)."""
        residual = self.residual.matrix()
        if self.transform is None:
            return residual
        weight = weight_of(self.base)
        return self.transform.after(weight) - weight + residual
