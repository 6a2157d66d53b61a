"""Low-rank factors put together from the shards of a pool that the layers of a projection share (MoS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.parts.adapted_linear import LowRankLinear, uniform, zeros


@dataclass(frozen=True)
class Division:
    """Who may use which of a pool's e L l shards: Wang et al. 2025, section 3.

    e is `equivalent_rank`, L `layers`, l `shards_per_vector`. The first (e - p) L l shards, p being `private_rank`, are
    public; of the others every layer owns p l in a row.
    """

    equivalent_rank: int
    private_rank: int
    shards_per_vector: int
    layers: int

    @property
    def public(self) -> int:
        """How many shards any layer may draw."""
        return (self.equivalent_rank - self.private_rank) * self.layers * self.shards_per_vector

    @property
    def total(self) -> int:
        """How many shards there are."""
        return self.equivalent_rank * self.layers * self.shards_per_vector

    @property
    def largest_rank(self) -> int:
        """The rank of a layer that holds every public shard and its own."""
        return self.public // self.shards_per_vector + self.private_rank

    def private(self, position: int) -> Tensor:
        """The shards of the layer at `position` in its projection, (p l,), int64."""
        own = self.private_rank * self.shards_per_vector
        return self.public + torch.arange(position * own, (position + 1) * own)

    def drawn(self, rank: int, position: int) -> Tensor:
        """The shards of one factor, (rank l,), int64: different public ones, by torch's global stream, and its own."""
        count = (rank - self.private_rank) * self.shards_per_vector
        return torch.cat([torch.randperm(self.public)[:count], self.private(position)])


@dataclass(frozen=True)
class ShardPool:
    """The trained tensors of a projection, A (shards, in / l) and B (shards, out / l), and who may use what."""

    division: Division
    A: nn.Parameter
    B: nn.Parameter

    @classmethod
    def of(cls, division: Division, width_in: int, width_out: int, device: torch.device) -> ShardPool:
        """LoRA's start: A ~ U(-1, 1) / sqrt(in), by the whole width and not by that of a shard, and B = 0."""
        parts = division.shards_per_vector
        down = uniform(division.total, width_in // parts, device, fan_in=width_in)
        return cls(division, down, zeros(division.total, width_out // parts, device=device))

    def unused(self, tables: Sequence[Tensor]) -> float:
        """The share of the public shards that none of the layers' `tables` contains; 0 where no shard is public."""
        used = {shard for table in tables for shard in table.tolist()}
        unused = set(range(self.division.public)) - used
        return len(unused) / max(1, self.division.public)


def assemble(pool: Tensor, table: Tensor, rank: int) -> Tensor:
    """The (rank, width) matrix whose row j is the shards `table[j l]` to `table[j l + l - 1]` side by side.

    `pool` is (shards, width / l), `table` (rank l,).
    """
    return pool.index_select(0, table).view(rank, -1)


class ShardLinear(LowRankLinear):
    """A linear layer whose A and B^T are assembled from the shards of `pool`, anew in every pass.

    `position` is the layer's place in its projection. `tables`, (2, rank l), int64, has the shards of A and those of B;
    they are drawn here, apart from each other, and stay as they are.
    """

    tables: Tensor

    def __init__(
        self, base: nn.Module, pool: ShardPool, position: int, rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__(base, alpha / rank, dropout)
        self.rank = rank
        self.pool_A = pool.A
        self.pool_B = pool.B
        tables = torch.stack([pool.division.drawn(rank, position) for _ in "AB"])
        self.register_buffer("tables", tables.to(self.device))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A, (rank, in), and B, (out, rank)."""
        of_a, of_b = self.tables.unbind()
        return assemble(self.pool_A, of_a, self.rank), assemble(self.pool_B, of_b, self.rank).mT
