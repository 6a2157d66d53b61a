"""Decompositions of a pretrained weight that methods start from or train within, in float32.

Every function takes W as (out, in), k = min(out, in), and gives new tensors on W's device, none a view of W. Only
`rank_of_energy` reads a value; the others give the right shapes for a weight on the device `meta` too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_PIVOT = 1e-12
PSEUDO_INVERSE_CUTOFF = 1e-6


class LDU(NamedTuple):
    """W = L[rows] diag(d) U: `rows` (out,) undoes the pivoting, L (out, k) and U (k, in) have ones on the diagonal."""

    rows: Tensor
    L: Tensor
    d: Tensor
    U: Tensor


class SVD(NamedTuple):
    """W = U diag(sigma) Vt: U (out, k), sigma (k,) descending, Vt (k, in)."""

    U: Tensor
    sigma: Tensor
    Vt: Tensor

    def truncated(self, rank: int) -> SVD:
        """The `rank` leading triplets."""
        return SVD(_own(self.U[:, :rank]), self.sigma[:rank].clone(), self.Vt[:rank].clone())


class Factors(NamedTuple):
    """What a change B C A of a weight starts from: A (rank, in), C (rank, rank), B (out, rank)."""

    A: Tensor
    C: Tensor
    B: Tensor


def ldu(weight: Tensor) -> LDU:
    """LU with partial pivoting, the pivots drawn out of the upper factor (LoLDU, section 3).

    A pivot nearer to 0 than 1e-12 counts as 1e-12 of its sign; its row of U then has no 1 on the diagonal, and the
    product is W all the same.
    """
    permutation, lower, upper = torch.linalg.lu(weight)
    pivots = upper.diagonal()
    d = torch.where(pivots.abs() < SMALLEST_PIVOT, torch.full_like(pivots, SMALLEST_PIVOT).copysign(pivots), pivots)
    return LDU(permutation.argmax(1), lower, d, upper / d[:, None])


def initial_diagonal(d: Tensor, initialisation: str) -> Tensor:
    """The start of LoLDU's z, shaped as `d`, in the modes of the authors' code; m is the mean of d.

    "lu" is d itself; "uniform" U(-|m|/2, |m|/2), "normal" N(m, std(d)), "constant" m, "ones", "zeros", "s_uniform"
    U(-1, 1), "s_normal" N(0, 1). Draws come from the CPU's stream.
    """
    mean = d.mean()
    if initialisation in ("uniform", "s_uniform"):
        draws = torch.rand(d.shape).to(d.device) - 0.5
        return draws * (mean.abs() if initialisation == "uniform" else 2)
    if initialisation in ("normal", "s_normal"):
        draws = torch.randn(d.shape).to(d.device)
        return mean + d.std(correction=min(1, len(d) - 1)) * draws if initialisation == "normal" else draws
    fixed = {"lu": d, "constant": mean.expand_as(d), "ones": torch.ones_like(d), "zeros": torch.zeros_like(d)}
    return fixed[initialisation].clone()


def thin_svd(weight: Tensor) -> SVD:
    """The singular value decomposition with k triplets; the largest entry of every column of U is positive.

    The sign of a pair of singular vectors is arbitrary, and a library's choice may differ between machines.
    """
    U, sigma, Vt = torch.linalg.svd(weight, full_matrices=False)
    signs = 1.0 - 2.0 * (U.gather(0, U.abs().argmax(0, keepdim=True)) < 0)
    return SVD(U * signs, sigma, Vt * signs.mT)


def rank_of_energy(sigma: Tensor, energy: float) -> int:
    """The smallest r for which the r leading values hold the share `energy` of the sum of all squares."""
    held = sigma.square().cumsum(0) / sigma.square().sum()
    return min(int((held < energy).sum()) + 1, len(sigma))


def normalised_energy(sigma: Tensor, smallest: int, largest: int) -> Tensor:
    """How much of the energy of the `largest` leading values the `smallest` leading ones hold: a scalar (LaMDA++)."""
    squares = sigma.square()
    return squares[:smallest].sum() / squares[:largest].sum()


def svd_start(svd: SVD, rank: int, scaling: float) -> Factors:
    """LaMDA's spectral start: `scaling` B C A is the best approximation of W of rank `rank`; C is diagonal."""
    U, sigma, Vt = svd.truncated(rank)
    return Factors(Vt, torch.diag(sigma / scaling), U)


def nystrom_start(weight: Tensor, rank: int, inverse: bool = False) -> Factors:
    """NLoRA's start: A the first `rank` rows of W, B its first `rank` columns, C the block M where they cross.

    With `inverse`, C is the pseudo-inverse of M, as in Nyström's approximation of W; it is computed in float64, since
    a block of a pretrained weight may be badly conditioned.
    """
    block = weight[:rank, :rank]
    if inverse:
        block = torch.linalg.pinv(block.double(), rtol=PSEUDO_INVERSE_CUTOFF).float()
    return Factors(_own(weight[:rank]), _own(block), _own(weight[:, :rank]))


def _own(view: Tensor) -> Tensor:
    """The same numbers in memory of their own, row by row."""
    return view.clone(memory_format=torch.contiguous_format)
