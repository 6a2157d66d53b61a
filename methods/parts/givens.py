"""Transforms that are a tournament of 2 x 2 blocks: rotations, or nearly so (GOFT and qGOFT, Ma et al. 2024).

Level t of the tournament over d features couples those that are a multiple of s_t = 2^(t-1): the k-th pair is
i = 2 k s_t and j = i + s_t, and a feature that is left over waits for the next level. P_t is the identity but for one
block G = [[g11, g12], [g21, g22]] per pair, and R = P_K ... P_2 P_1 acts on row vectors, x R, so the last level first:

    x_i' = x_i g11 + x_j g21,    x_j' = x_i g12 + x_j g22.

Blocks are kept as (..., d - 1, 2, 2), level by level and k ascending.

With a power of two b that divides d, c = d / b, the levels above log2(b) turn every b-th feature alone, and those
below stay within groups of b neighbours. So R is a (c, c) matrix on every b-th feature, followed by c matrices of
(b, b): two small products, c^2 + d b multiplications per vector. Level by level it takes but 4 (d - 1), in log2(d)
strided passes over the vectors, which makes a training step on CPU 2.5 times as long; turning the weight instead of
the vectors spares no time, since the weight's gradient is one more large product.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from methods.parts.adapted_linear import AdaptedLinear, zeros
from methods.parts.linear import weight_of

GROUP = 32
"""The greatest b; 16 and 64 are no faster on CPU."""


def tournament(width: int) -> list[tuple[int, int]]:
    """Stride s_t and number of pairs m_t of every level: n_1 = width, m_t = n_t // 2, n_(t+1) = n_t - m_t."""
    levels: list[tuple[int, int]] = []
    players = width
    while players > 1:
        levels.append((2 ** len(levels), players // 2))
        players -= players // 2
    return levels


def givens(p: Tensor) -> Tensor:
    """[[cos a, -sin a], [sin a, cos a]] with a = pi tanh(p): (...) to (..., 2, 2)."""
    angle = math.pi * torch.tanh(p)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack((cos, -sin, sin, cos), dim=-1).view(*p.shape, 2, 2)


def turned_by_levels(vectors: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """x R for vectors (..., n, width), with the blocks of every level t as (..., m_t, 2, 2).

    Top down, since a level needs no more of x than the features that are an odd multiple of its stride.
    """
    top = 2 ** len(levels)
    done = vectors[..., ::top]
    for number, blocks in reversed(list(enumerate(levels))):
        pairs, stride = blocks.shape[-3], 2**number
        block = blocks.unsqueeze(-4)
        first, second = done[..., :pairs, None], vectors[..., stride :: 2 * stride, None]
        both = (first * block[..., 0, :] + second * block[..., 1, :]).flatten(-2)
        done = torch.cat((both, done[..., pairs:]), dim=-1) if done.shape[-1] > pairs else both
    return done


def by_level(blocks: Tensor) -> list[Tensor]:
    """Blocks (..., d - 1, 2, 2) level by level, (..., m_t, 2, 2)."""
    counts = [pairs for _, pairs in tournament(blocks.shape[-3] + 1)]
    return list(torch.split(blocks, counts, dim=-3))


def dense(blocks: Tensor, scale: Tensor | None = None) -> Tensor:
    """R, (..., d, d), or R diag(scale) with scale (..., d)."""
    width = blocks.shape[-3] + 1
    turned = turned_by_levels(_identity(width, blocks), by_level(blocks))
    return turned if scale is None else turned * scale.unsqueeze(-2)


class Factors(NamedTuple):
    """R - I in two parts: `coarse`, (..., c, c), for every b-th feature, and `fine`, (..., c, b, b), for the groups.

    Without the identity they are exact for a transform that has not left it, and small changes survive bfloat16.
    """

    coarse: Tensor
    fine: Tensor


def factors(blocks: Tensor, scale: Tensor | None = None) -> Factors:
    """The two parts of R, or of R diag(scale), of blocks (..., d - 1, 2, 2) and scale (..., d)."""
    width = blocks.shape[-3] + 1
    group = math.gcd(width, GROUP)
    groups, lower, levels = width // group, group.bit_length() - 1, by_level(blocks)
    transforms = blocks.shape[:-3]
    coarse_identity = _identity(groups, blocks).expand(*transforms, groups, groups)
    fine_identity = _identity(group, blocks).expand(*transforms, groups, group, group)
    coarse = turned_by_levels(coarse_identity, levels[lower:])
    within = [level.reshape(*transforms, groups, -1, 2, 2) for level in levels[:lower]]
    fine = turned_by_levels(fine_identity, within)
    if scale is not None:
        fine = fine * scale.reshape(*scale.shape[:-1], groups, 1, group)
    return Factors(coarse - coarse_identity, fine - fine_identity)


def turned(vectors: Tensor, parts: Factors) -> Tensor:
    """x R for vectors (..., d); the backward pass needs no more of them than the vectors themselves."""
    return cast(Tensor, _Turned.apply(vectors, *parts))  # type: ignore[no-untyped-call]


def turned_back(vectors: Tensor, parts: Factors) -> Tensor:
    """x R^T for vectors (..., d), which undoes x R where R is a rotation."""
    coarse, fine = parts
    grouped = vectors.reshape(-1, *fine.shape[:2])
    back = grouped + _per_group(grouped, fine.mT)
    back[:, :, 0] += back[:, :, 0] @ coarse.mT
    return back.reshape(vectors.shape)


class _Turned(torch.autograd.Function):
    """x -> x R, which keeps x, often shared with other layers, and computes what lies between the parts anew."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, coarse, fine)
        between = _after_coarse(vectors, coarse, fine)
        return (between + _per_group(between, fine)).reshape(vectors.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vectors, coarse, fine = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, *fine.shape[:2])
        of_fine = torch.bmm(_after_coarse(vectors, coarse, fine).permute(1, 2, 0), gradient.transpose(0, 1))
        back = gradient + _per_group(gradient, fine.mT)
        of_coarse = vectors.reshape(-1, *fine.shape[:2])[:, :, 0].mT @ back[:, :, 0]
        back[:, :, 0] += back[:, :, 0] @ coarse.mT
        return back.reshape(vectors.shape), of_coarse, of_fine


def _after_coarse(vectors: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """A copy of the vectors in groups, (n, c, b), the first of every group turned."""
    grouped = vectors.reshape(-1, *fine.shape[:2])
    between = grouped.clone()
    between[:, :, 0] += grouped[:, :, 0] @ coarse
    return between


def _per_group(grouped: Tensor, matrices: Tensor) -> Tensor:
    """Every group of (n, c, b) times its own matrix of (c, b, b)."""
    return torch.bmm(grouped.transpose(0, 1), matrices).transpose(0, 1)


def _identity(width: int, like: Tensor) -> Tensor:
    return torch.eye(width, dtype=like.dtype, device=like.device)


def non_orthogonality(blocks: Tensor) -> Tensor:
    """The sum over all blocks (..., 2, 2) of (g11 g12 + g21 g22)^2, the squared product of their columns: section 4."""
    return (blocks[..., 0] * blocks[..., 1]).sum(-1).square().sum()


class GivensLinear(AdaptedLinear):
    """A frozen linear layer on turned input: y = (x R) W^T + b, that is W_eff = W R^T.

    The blocks of R are rotations by pi tanh(p) with p of (in - 1,), which starts at 0. Where it is `scaled`, diag(g)
    is the innermost factor of R, with g of (in,), which starts at 1.
    """

    def __init__(self, base: nn.Module, scaled: bool = False) -> None:
        super().__init__(base)
        self.add_blocks()
        self.g = nn.Parameter(torch.ones(self.in_features, device=self.device)) if scaled else None
        self.together: Factors | None = None
        """The parts of R, while they are computed for many layers at once."""

    def add_blocks(self) -> None:
        """Add what the blocks are made of, at the identity."""
        self.p = zeros(self.in_features - 1, device=self.device)

    @property
    def own(self) -> Tensor:
        """What the blocks are made of."""
        return self.p

    @staticmethod
    def blocks(own: Tensor) -> Tensor:
        """The blocks, (..., in - 1, 2, 2), of any number of layers' stacked `own`."""
        return givens(own)

    def factors(self) -> Factors:
        """The parts of R."""
        return self.together or stacked_factors([self])[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out); turned in the dtype of the input, whatever autocast says."""
        parts = self.factors()
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = turned(hidden, Factors(*(part.to(hidden.dtype) for part in parts)))
        output: Tensor = self.base(hidden)
        return output

    def delta_weight(self) -> Tensor:
        """W R^T - W, (out, in)."""
        weight = weight_of(self.base)
        return turned_back(weight, self.factors()) - weight


class QuasiGivensLinear(GivensLinear):
    """The same with free blocks G of (in - 1, 2, 2), which start at the identity."""

    def add_blocks(self) -> None:
        """Add what the blocks are made of, at the identity."""
        self.G = nn.Parameter(torch.eye(2, device=self.device).repeat(self.in_features - 1, 1, 1))

    @property
    def own(self) -> Tensor:
        """What the blocks are made of."""
        return self.G

    @staticmethod
    def blocks(own: Tensor) -> Tensor:
        """The blocks, (..., in - 1, 2, 2), of any number of layers' stacked `own`."""
        return own


def by_width(layers: Iterable[GivensLinear]) -> list[list[GivensLinear]]:
    """The layers of equal input width, whose tensors can be stacked."""
    groups: dict[int, list[GivensLinear]] = {}
    for layer in layers:
        groups.setdefault(layer.in_features, []).append(layer)
    return list(groups.values())


def stacked_blocks(layers: Sequence[GivensLinear]) -> Tensor:
    """The blocks of layers of one width and kind, (layers, in - 1, 2, 2)."""
    return layers[0].blocks(torch.stack([layer.own for layer in layers]))


def stacked_factors(layers: Sequence[GivensLinear]) -> list[Factors]:
    """The parts of R of every one of layers of one width and kind."""
    scales: list[Tensor] = [layer.g for layer in layers if layer.g is not None]
    both = factors(stacked_blocks(layers), torch.stack(scales) if scales else None)
    return [Factors(*parts) for parts in zip(*(part.unbind() for part in both), strict=True)]


@contextlib.contextmanager
def turned_together(layers: Sequence[GivensLinear]) -> Iterator[None]:
    """Inside, the layers have the parts of R at hand: a few kernels per width and level instead of per layer."""
    for group in by_width(layers):
        for layer, parts in zip(group, stacked_factors(group), strict=True):
            layer.together = parts
    try:
        yield
    finally:
        for layer in layers:
            layer.together = None
