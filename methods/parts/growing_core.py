"""A linear layer whose low-rank change has a core that grows as two triangles (TriAdaptLoRA)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.adapted_linear import normal, zeros
from methods.parts.growing import Block, GrowingLinear


class TriangleBlock(Block):
    """Growth from rank R_{j-1} to R_j by b: A, (b, in), B, (out, b), C_row, (b, R_j), C_col, (R_j, b)."""

    def __init__(self, A: Tensor, B: Tensor, C_row: Tensor, C_col: Tensor) -> None:
        super().__init__(A, B)
        self.C_row = nn.Parameter(C_row)
        self.C_col = nn.Parameter(C_col)


class TriangularLinear(GrowingLinear):
    """y = W0 x + b + s B C A x, s = alpha / (rank + 1e-5), with the core C, (rank, rank), of `core`.

    A, C_row and C_col of the first block start normal and its B at 0, so the layer starts as `base`. Of a later block
    A and C_row start normal, B and C_col at 0: B C A stays what it was. With `zero_core` A and B of every block start
    normal and its part of C at 0.
    """

    def __init__(
        self, base: nn.Module, rank: int, block_rank: int, alpha: float, dropout: float, zero_core: bool = False
    ) -> None:
        super().__init__(base, rank, alpha, dropout)
        self.block_rank = block_rank
        self.zero_core = zero_core
        draw, zero = functools.partial(normal, device=self.device), functools.partial(zeros, device=self.device)
        outer, inner = (draw, zero) if zero_core else (zero, draw)
        A = draw(rank, self.in_features)
        C_row, C_col = inner(rank, rank), inner(rank, rank)
        self.blocks.append(TriangleBlock(A, outer(self.out_features, rank), C_row, C_col))

    def extend(self, random: np.random.Generator) -> list[nn.Parameter]:
        """Add a block that leaves B C A as it is."""
        width = self.block_rank
        self.rank += width
        draw, zero = functools.partial(self.drawn, random), functools.partial(zeros, device=self.device)
        outer, inner = (draw, zero) if self.zero_core else (zero, draw)
        A, C_row = draw(width, self.in_features), inner(width, self.rank)
        block = TriangleBlock(A, outer(self.out_features, width), C_row, zero(self.rank, width))
        self.blocks.append(block)
        return [block.A, block.B, block.C_row, block.C_col]

    @staticmethod
    def factors_of(layers: Sequence[GrowingLinear], A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """s C A, (layers, rank, in), and B^T, (layers, rank, out)."""
        return (cores(layers) * layers[0].scaling) @ A, B


def cores(layers: Sequence[GrowingLinear]) -> Tensor:
    """C of layers of one structure, (layers, rank, rank)."""
    blocks = cast("list[tuple[TriangleBlock, ...]]", list(zip(*(layer.parts for layer in layers), strict=True)))
    rows = [torch.stack([block.C_row for block in alike]) for alike in blocks]
    columns = [torch.stack([block.C_col for block in alike]) for alike in blocks]
    return core(rows, columns)


def core(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    """C = L + U, (..., r, r), from C_row_j, (..., b_j, R_j), and C_col_j, (..., R_j, b_j).

    Block row j of L is C_row_j and zeros to its right, block column j of U is C_col_j and zeros below, so the blocks
    on the diagonal are sums of both.
    """
    rank = rows[-1].shape[-1]
    lower = torch.cat([functional.pad(row, (0, rank - row.shape[-1])) for row in rows], dim=-2)
    upper = torch.cat([functional.pad(column, (0, 0, 0, rank - column.shape[-2])) for column in columns], dim=-1)
    return lower + upper


@torch.no_grad()
def normalised_norms(layers: Sequence[GrowingLinear]) -> Tensor:
    """N = ||C||_F / J of every layer with J blocks, (layers,)."""
    return torch.stack([torch.linalg.matrix_norm(cores([layer])[0]) / len(layer.blocks) for layer in layers])
