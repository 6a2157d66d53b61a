"""Linear layers whose low-rank change grows in training, block by block along the rank axis.

Every block is a module with a part of the factors: A, (b, in), B, (out, b), and what the method puts between them. A
pass over many small blocks would cost many small kernels, so `joined` puts the factors of all layers of one structure
together in a few, before the forward pass, and the orthogonality term uses the same stacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.adapted_linear import AdaptedLinear
from methods.parts.triplets import orthogonality


class Block(nn.Module):
    """Some ranks of a layer's change: A, (b, in), and B, (out, b)."""

    def __init__(self, A: Tensor, B: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)


class GrowingLinear(AdaptedLinear):
    """y = W0 x + b + U D x, with U, (out, rank), and D, (rank, in), made of the layer's blocks.

    s = alpha / (rank + 1e-5) is part of D and follows the present rank, so growth shrinks what was learned before.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(base, dropout)
        self.rank = rank
        """How many ranks count as grown."""
        self.alpha = alpha
        self.blocks = nn.ModuleList()
        self.given: tuple[Tensor, Tensor] | None = None
        """D and U for one forward pass, put together with those of other layers."""

    @property
    def parts(self) -> Sequence[Block]:
        """The blocks in the order of their ranks, the newest last."""
        return cast("list[Block]", list(self.blocks))

    @property
    def scaling(self) -> float:
        """s = alpha / (rank + 1e-5)."""
        return self.alpha / (self.rank + 1e-5)

    def extend(self, random: np.random.Generator) -> list[nn.Parameter]:
        """Grow by one block; returns the tensors that train from now on, in a fixed order."""
        raise NotImplementedError

    def grow_to(self, names: Collection[str], random: np.random.Generator) -> None:
        """Grow to the blocks of a saved layer, whose tensors are called `names`."""
        while len(self.blocks) < len({name.split(".")[1] for name in names if name.startswith("blocks.")}):
            self.extend(random)

    @staticmethod
    def factors_of(layers: Sequence[GrowingLinear], A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """D, (layers, rank, in), and U^T, (layers, rank, out), of layers of one structure; A and B^T are theirs."""
        raise NotImplementedError

    def factors(self) -> tuple[Tensor, Tensor]:
        """D, (rank, in), and U, (out, rank)."""
        if self.given is not None:
            return self.given
        group = join([self])
        return group.down[0], group.up[0].mT

    def update(self, hidden: Tensor) -> Tensor:
        """U D x."""
        down, up = self.factors()
        return functional.linear(functional.linear(hidden, down), up)

    def delta_weight(self) -> Tensor:
        """U D, (out, in)."""
        down, up = self.factors()
        return up @ down

    def drawn(self, random: np.random.Generator, *shape: int, std: float = 0.02) -> Tensor:
        """N(0, std^2) from the method's own generator, on the layer's device."""
        return torch.from_numpy(std * random.standard_normal(shape, np.float32)).to(self.device)


@dataclass(frozen=True)
class Joined:
    """Layers of one structure and their stacked factors: A and `down`, (layers, rank, in), B^T and `up`, transposed."""

    layers: Sequence[GrowingLinear]
    A: Tensor
    B: Tensor
    down: Tensor
    up: Tensor


def join(layers: Sequence[GrowingLinear]) -> Joined:
    """The stacked factors of layers of equal widths and blocks, in float32."""
    blocks = [block for layer in layers for block in layer.parts]
    A = torch.cat([block.A for block in blocks]).view(len(layers), -1, layers[0].in_features)
    columns = [_transposed(block.B) for block in blocks]
    B = torch.cat(columns).view(len(layers), -1, layers[0].out_features)
    with torch.autocast(A.device.type, enabled=False):
        return Joined(layers, A, B, *layers[0].factors_of(layers, A, B))


def _transposed(B: Tensor) -> Tensor:
    """B^T; a single column is viewed as a row, since DDP warns of the strides that `mT` would give its gradient."""
    return B.view(1, -1) if B.shape[1] == 1 else B.mT


def by_structure(layers: Sequence[GrowingLinear]) -> list[list[GrowingLinear]]:
    """The layers in groups of equal widths and numbers of blocks, in order of first appearance."""
    groups: dict[tuple[int, int, int], list[GrowingLinear]] = {}
    for layer in layers:
        groups.setdefault((layer.in_features, layer.out_features, len(layer.parts)), []).append(layer)
    return list(groups.values())


@contextlib.contextmanager
def joined(layers: Sequence[GrowingLinear]) -> Iterator[list[Joined]]:
    """Inside, every layer uses factors that were put together with those of the layers like it."""
    groups = [join(alike) for alike in by_structure(layers)]
    try:
        for group in groups:
            for layer, down, up in zip(group.layers, group.down.unbind(), group.up.mT.unbind(), strict=True):
                layer.given = down, up
        yield groups
    finally:
        for layer in layers:
            layer.given = None


def mean_orthogonality(groups: Sequence[Joined]) -> Tensor:
    """The mean of ||A A^T - I||_F and ||B^T B - I||_F over all layers, of all their blocks together."""
    with torch.autocast(groups[0].A.device.type, enabled=False):
        return torch.cat([orthogonality(stack) for group in groups for stack in (group.A, group.B)]).mean()


def largest(scores: Tensor, count: int) -> list[int]:
    """Positions of the scores, (n,), that are at least the `count`-th largest; ties make them more than `count`."""
    threshold = scores.sort(descending=True).values[count - 1]
    found: list[int] = (scores >= threshold).nonzero().flatten().tolist()
    return found
