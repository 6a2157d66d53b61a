"""A part of the training split held out, to choose settings on: what a run reports is never looked at for that."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import DataError
from tasks.sources import TRAIN_SPLIT, Source

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

SHARE = 0.2
AT_MOST = 2000
SEED = 20_261_121


@dataclass(frozen=True)
class HeldOutSource(Source):
    """A source whose training split is cut in two: the splits of `scored` are read from the smaller part.

    Rows with the same value of `context_column`, such as questions about one paragraph, go to one part together.
    """

    whole: Source
    scored: tuple[str, ...]
    context_column: str | None

    @classmethod
    def cut(cls, whole: Source, scored: Sequence[str], context_column: str | None) -> HeldOutSource:
        """The source in two parts; a fifth of the training rows, at most 2,000, is held out."""
        revision = f"{whole.revision} held out {SEED}"
        return cls(whole.kind, whole.folder, revision, whole.reason, whole, tuple(scored), context_column)

    def of(self, config: str) -> Source:
        """Nothing of another config: it holds no training rows of the task."""
        return HeldOutSource.cut(self.whole.of(config), (), None)

    def has(self, split: str) -> bool:
        """Whether a part goes by this name."""
        return split == TRAIN_SPLIT or split in self.scored

    def count(self, split: str) -> int:
        """Rows of a part."""
        held_out = int(_is_held_out(self).sum())
        return self.whole.count(TRAIN_SPLIT) - held_out if split == TRAIN_SPLIT else held_out

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a part, in the order of the training split."""
        held_out = _is_held_out(self)
        rows = np.flatnonzero(~held_out if split == TRAIN_SPLIT else held_out)
        return self.whole.read(TRAIN_SPLIT, columns).take(rows)


@functools.lru_cache(maxsize=8)
def _is_held_out(source: HeldOutSource) -> NDArray[np.bool_]:
    """Which training rows are held out, shape (rows,)."""
    column = source.context_column
    if column is None:
        return held_out_rows(np.arange(source.whole.count(TRAIN_SPLIT)))
    values = source.whole.read(TRAIN_SPLIT, [column]).column(column).combine_chunks()
    return held_out_rows(values.dictionary_encode().indices.to_numpy(zero_copy_only=False))


def held_out_rows(contexts: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows are held out, (rows,), where `contexts`, (rows,), numbers what each row is about from 0 on.

    Contexts are drawn with a fixed seed, and taken as long as the part stays within a fifth of the rows and 2,000.
    Raises DataError if none is small enough.
    """
    room = min(AT_MOST, round(SHARE * len(contexts)))
    sizes = np.bincount(contexts)
    taken = np.zeros(len(sizes), dtype=bool)
    for context in np.random.default_rng(SEED).permutation(len(sizes)).tolist():
        if sizes[context] <= room:
            taken[context] = True
            room -= sizes[context]
    if not taken.any():
        raise DataError(f"No part of the {len(contexts)} training rows can be held out: too few are about one thing.")
    return taken[contexts]
