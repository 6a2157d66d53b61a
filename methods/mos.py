"""MoS: unleashing parameter efficiency of low-rank adaptation with mixture of shards.

Wang et al., ICLR 2025, arXiv:2410.00938; the authors' code is Forence1999/MoS.

LoRA of rank r whose vectors are put together from pieces that all layers of a projection share. For every projection
(all queries, all values, ...) of L layers there is a pool P_A of N = e L l shards of width in / l, and a pool P_B of as
many of width out / l: the parameters of LoRA of rank e, whatever r is. p L l of the N shards are private: layer i owns
p l in a row. The other (e - p) L l are public. At the start every layer draws, for A and for B apart,
(r - p) l different public shards and appends its private ones; with these tables I_A and I_B of r l numbers

    A = reshape(P_A[I_A], (r, in)), B^T = reshape(P_B[I_B], (r, out)), y = W0 x + b + (alpha / r) B A dropout(x),

so a row of A is l shards side by side. P_A ~ U(-1, 1) / sqrt(in), P_B = 0: the model starts as it was. The tables never
change; a shard's gradient is the sum over the layers that use it. At the end A and B are merged. r may not exceed
p + (e - p) L, and is e where p = e, which is LoRA.

As in the authors' code, and unlike the paper's equation 5 as printed, A comes from P_A and B from P_B. Public shards
that no layer drew never train (`report` gives their share). The code's fixed random scaling of A, which it holds at 1,
is left out, and a pool is drawn once, not again for every layer. The default rank is 4 e, or the largest that the pool
of the shallowest projection allows: with e = 2 it is 8 on 12 layers and 7 on 6. p = 1 and l = 2 are this benchmark's
choice, since the authors leave them to the command line. A saved adapter holds pools and tables; the authors write
every layer's A and B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from bench.requirements import require_whole
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbone.anatomy import Anatomy, Part
    from methods.parts.shards import Division, ShardLinear, ShardPool

RANK_PER_EQUIVALENT_RANK = 4


class Mos(LinearMethod):
    """Low-rank factors assembled from pools of shards, one pair of pools per projection.

    `equivalent_rank` is e, the rank of the LoRA that has as many parameters; `rank` is r (None: 4 e, or less where the
    pools are too small); `private_rank` is p, `shards_per_vector` l; `alpha`, `dropout` and `targets` are LoRA's.
    """

    family = "shared or random bases"
    paper = "Wang et al. 2025, arXiv:2410.00938"

    def __init__(
        self,
        learning_rate: float,
        equivalent_rank: int,
        rank: int | None,
        private_rank: int,
        shards_per_vector: int,
        alpha: float,
        dropout: float,
        targets: str | Sequence[str],
    ) -> None:
        super().__init__(learning_rate, targets)
        self.equivalent_rank = equivalent_rank
        self.rank = rank
        self.private_rank = private_rank
        self.shards_per_vector = shards_per_vector
        self.alpha = alpha
        self.dropout = dropout
        self._pools: dict[str, ShardPool] = {}
        """By projection."""
        self._places: dict[str, tuple[ShardPool, int]] = {}
        """By target: the pools that it draws from and its position in its projection."""

    def check(self, anatomy: Anatomy) -> None:
        """The pools must have enough shards for the rank."""
        from methods.parts.sharing import projections

        super().check(anatomy)
        parts = anatomy.match(self.targets)
        rank = self.rank_on(parts)
        for part in parts:
            check_rank(rank, part)
        for name, group in projections(parts).items():
            most = self._division(group).largest_rank
            if rank > most:
                raise SettingsError(
                    f"method.rank={rank} is above {most}, which is what the shards of {len(group)} layers suffice for "
                    f"({name})."
                )

    def check_settings(self) -> None:
        """Ranks and shards must be whole numbers, the private rank a part of the others."""
        require_whole("method.private_rank", self.private_rank, least=0)
        require_whole("method.shards_per_vector", self.shards_per_vector)
        for name, rank in {"equivalent_rank": self.equivalent_rank, "rank": self.rank}.items():
            if rank is None:
                continue
            require_whole(f"method.{name}", rank)
            if self.private_rank > rank:
                raise SettingsError(f"method.private_rank={self.private_rank} must be at most method.{name}={rank}.")

    def check_part(self, part: Part) -> None:
        """Widths must be divisible into shards."""
        from methods.parts.linear import in_out_features

        for width in in_out_features(part.module):
            if width % self.shards_per_vector:
                raise SettingsError(
                    f"method.shards_per_vector={self.shards_per_vector} does not divide the width of {part.name} "
                    f"({width})."
                )

    def rank_on(self, parts: Sequence[Part]) -> int:
        """r: the setting, or what it is by default with these targets."""
        from methods.parts.sharing import projections

        if self.rank is not None:
            return self.rank
        largest = min(self._division(group).largest_rank for group in projections(parts).values())
        return min(RANK_PER_EQUIVALENT_RANK * self.equivalent_rank, largest)

    def share(self, parts: Sequence[Part]) -> None:
        """Draw the pools."""
        from methods.parts.linear import in_out_features
        from methods.parts.shards import ShardPool
        from methods.parts.sharing import projections

        self._rank = self.rank_on(parts)
        for name, group in projections(parts).items():
            first = group[0].module
            device = first.get_parameter("weight").device
            pool = self._pools[name] = ShardPool.of(self._division(group), *in_out_features(first), device)
            self._places.update({part.name: (pool, position) for position, part in enumerate(group)})

    def adapted(self, part: Part) -> ShardLinear:
        """The target with its tables of shards."""
        from methods.parts.shards import ShardLinear

        pool, position = self._places[part.name]
        return ShardLinear(part.module, pool, position, self._rank, self.alpha, self.dropout)

    def stored_tensors(self) -> dict[str, Tensor]:
        """Pools, head and the tables, which nothing else can bring back."""
        tables = {f"{name}.tables": layer.tables for name, layer in self.layers.items()}
        return super().stored_tensors() | tables

    def report(self) -> dict[str, Any]:
        """The rank, and by projection the share of its public shards that no layer uses, in A and in B."""
        unused = {}
        for projection, pool in self._pools.items():
            tables = [self.layers[name].tables for name, (own, _) in self._places.items() if own is pool]
            unused[projection] = {"A": pool.unused([of_a for of_a, _ in tables])}
            unused[projection]["B"] = pool.unused([of_b for _, of_b in tables])
        return {"rank": self._rank, "unused_public_shards": unused}

    def _division(self, group: Sequence[Part]) -> Division:
        """How the pools of a projection with these layers are divided."""
        from methods.parts.shards import Division

        return Division(self.equivalent_rank, self.private_rank, self.shards_per_vector, layers=len(group))
