"""A part of the training split held out, to choose settings on: what a run reports is never looked at for that."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import DataError
from tasks.rows import require_columns
from tasks.sources import TRAIN_SPLIT, Source

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

SHARE = 0.2
AT_MOST = 2000
SEED = 20_261_121
UNKNOWN = -1


@dataclass(frozen=True)
class HeldOutSource(Source):
    """A source whose training split is cut in two: the splits of `scored` are read from the smaller part.

    Rows with the same value of `context_column`, such as questions about one paragraph, go to one part together. Where
    `phrase_column` holds sentences and phrases of them, whole sentences are held out, and the phrases that go with them
    are in neither part. A phrase goes with the longest sentence that holds it, so a short one that several hold may be
    trained on although another of its sentences is held out.
    """

    whole: Source
    scored: tuple[str, ...]
    context_column: str | None
    phrase_column: str | None

    @classmethod
    def cut(
        cls, whole: Source, scored: Sequence[str], context_column: str | None, phrase_column: str | None = None
    ) -> HeldOutSource:
        """The source in two parts; a fifth of the training rows, or sentences, at most 2,000, is held out."""
        revision = f"{whole.revision} held out {SEED} by {phrase_column or context_column or 'row'}"
        return cls(
            whole.kind, whole.folder, revision, whole.reason, whole, tuple(scored), context_column, phrase_column
        )

    def of(self, config: str) -> Source:
        """Nothing of another config: it holds no training rows of the task."""
        return HeldOutSource.cut(self.whole.of(config), (), None)

    def has(self, split: str) -> bool:
        """Whether a part goes by this name."""
        return split == TRAIN_SPLIT or split in self.scored

    def count(self, split: str) -> int:
        """Rows of a part."""
        return int(self._part(split).sum())

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a part, in the order of the training split."""
        import pyarrow as pa

        return self.whole.read(TRAIN_SPLIT, columns).filter(pa.array(self._part(split)))

    def _part(self, split: str) -> NDArray[np.bool_]:
        trained, scored = _parts(self)
        return trained if split == TRAIN_SPLIT else scored


@functools.lru_cache(maxsize=8)
def _parts(source: HeldOutSource) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which training rows are trained on and which are scored, each of shape (rows,)."""
    if source.phrase_column is not None:
        sentences = sentences_of(_column(source, source.phrase_column).to_pylist())
        scored = sentences == np.arange(len(sentences))
        scored[scored] = held_out_rows(np.arange(scored.sum()))
        return ~scored[sentences], scored
    if source.context_column is None:
        contexts = np.arange(source.whole.count(TRAIN_SPLIT))
    else:
        values = _column(source, source.context_column)
        contexts = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    scored = held_out_rows(contexts)
    return ~scored, scored


def _column(source: HeldOutSource, name: str) -> pa.Array:
    """A column of the training rows. Raises DataError if it is missing or has empty cells."""
    table = source.whole.read(TRAIN_SPLIT, [name])
    require_columns(table, [name], f"split '{TRAIN_SPLIT}' in {source.folder}")
    return table.column(name).combine_chunks()


def sentences_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """For each text the number of the longest one, in words, that holds all its words in a row, shape (texts,).

    A text that no other one holds is a sentence: its own number. Of equally long texts the first counts.
    """
    words = [tuple(text.split()) for text in texts]
    places: dict[tuple[str, ...], list[int]] = {}
    for number, text in enumerate(words):
        places.setdefault(text, []).append(number)
    sentences = np.full(len(texts), UNKNOWN, dtype=np.int64)
    for number in sorted(range(len(words)), key=lambda number: -len(words[number])):
        if sentences[number] == UNKNOWN:
            text = words[number]
            phrases = {text[start:end] for start, end in itertools.combinations(range(len(text) + 1), 2)} | {text}
            for place in itertools.chain.from_iterable(places.get(phrase, ()) for phrase in phrases):
                if sentences[place] == UNKNOWN:
                    sentences[place] = number
    return sentences


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
        raise DataError(
            f"No part of the {len(contexts)} training rows can be held out: at most {room} may be, and each thing that "
            "they are about has more."
        )
    return taken[contexts]
