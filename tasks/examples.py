"""Encoded text: one split of a task as token ids, and the batches that it is fed in.

What every kind of text task shares is `Tokens`, rows of token ids kept end to end and padded to the longest of a
batch. The kinds differ in how many rows an example has, on which side they are padded and what the labels are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.batch import Batch
from tasks.rows import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Tokens:
    """Rows of token ids end to end: `input_ids` and `token_type_ids` (total tokens,), `offsets` (rows + 1,)."""

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int8] | None
    offsets: NDArray[np.int64]
    padding_id: int = 0

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[int]], padding_id: int, segments: Sequence[Sequence[int]] | None = None
    ) -> Tokens:
        """Lists of token ids, and of segment ids where the model takes them."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(
            _flat(rows, np.int32),
            None if segments is None else _flat(segments, np.int8),
            np.concatenate([[0], np.cumsum(lengths)]),
            padding_id,
        )

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """The rows of all parts, one after the other."""
        segments = [part.token_type_ids for part in parts if part.token_type_ids is not None]
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(
            np.concatenate([part.input_ids for part in parts]),
            np.concatenate(segments) if segments else None,
            np.concatenate([[0], np.cumsum(lengths)]),
            parts[0].padding_id,
        )

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int32]:
        """The token ids of one row."""
        return self.input_ids[self.offsets[index] : self.offsets[index + 1]]

    def padded(self, rows: NDArray[np.int64], left: bool = False) -> dict[str, Tensor]:
        """Tensors of shape (rows, longest), with an attention mask only where there is padding."""
        import torch

        lengths = self.lengths[rows]
        longest = int(lengths.max())
        columns = np.arange(longest)
        first = longest - lengths if left else np.zeros_like(lengths)
        real = (columns >= first[:, None]) & (columns < (first + lengths)[:, None])
        positions = np.where(real, self.offsets[rows][:, None] + columns - first[:, None], 0)
        ids = np.where(real, self.input_ids[positions], self.padding_id)
        inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))}
        if self.token_type_ids is not None:
            segments = np.where(real, self.token_type_ids[positions], 0)
            inputs["token_type_ids"] = torch.from_numpy(segments.astype(np.int64))
        if not real.all():
            inputs["attention_mask"] = torch.from_numpy(real.astype(np.int64))
        return inputs


@dataclass(frozen=True)
class TextExamples:
    """One row of tokens per example. `labels` and `ids` have shape (examples,).

    `columns` holds what else scoring needs of every example, such as the question that an answer belongs to; it is
    written beside the predictions. `dropped` counts examples that were too long to train on.
    """

    tokens: Tokens
    labels: NDArray[Any]
    ids: NDArray[np.int64]
    columns: Columns = field(default_factory=dict)
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, shape (examples,)."""
        return self.tokens.lengths

    @functools.cached_property
    def loss_terms(self) -> NDArray[np.int64]:
        """One for each example: its label."""
        return np.ones(len(self), np.int64)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The examples at `indices`, padded at the end."""
        import torch

        inputs = self.tokens.padded(indices) | {"labels": torch.from_numpy(self.labels[indices])}
        return Batch(inputs, len(indices), int(self.lengths[indices].sum()))

    def question(self, indices: NDArray[np.int64]) -> Batch:
        """What the model is asked when it is evaluated; the same as in training."""
        return self.batch(indices)


@dataclass(frozen=True)
class ChoiceExamples(TextExamples):
    """`choices` rows per example, one after the other; the label is the position of the right one."""

    choices: int = 2

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example's longest choice, shape (examples,)."""
        longest: NDArray[np.int64] = self.tokens.lengths.reshape(-1, self.choices).max(axis=1)
        return longest

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """All choices of the examples at `indices`, an example's choices next to each other."""
        import torch

        rows = (indices[:, None] * self.choices + np.arange(self.choices)).ravel()
        inputs = self.tokens.padded(rows) | {"labels": torch.from_numpy(self.labels[indices])}
        return Batch(inputs, len(indices), int(self.tokens.lengths[rows].sum()))


@dataclass(frozen=True)
class SpanPairExamples(TextExamples):
    """Text with two marked spans: `spans`, (examples, 2, 2), holds the first and the last token of each."""

    spans: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2, 2), np.int64))

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Adds `span_masks`, (examples, 2, longest): which tokens belong to each span."""
        import torch

        plain = super().batch(indices)
        columns = np.arange(plain.shape[1])
        first, last = self.spans[indices][..., :1], self.spans[indices][..., 1:]
        masks = torch.from_numpy((columns >= first) & (columns <= last))
        return Batch(plain.inputs | {"span_masks": masks}, plain.samples, plain.tokens)


@dataclass(frozen=True)
class PromptedExamples(TextExamples):
    """A prompt and the text that should follow it, one row; `prompt_lengths`, (examples,), says where it begins.

    Trained on what follows the prompt; asked with the prompt alone. `labels` holds what the text is scored against.
    """

    prompt_lengths: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @functools.cached_property
    def loss_terms(self) -> NDArray[np.int64]:
        """The tokens behind the prompt, shape (examples,); the first token of all is never predicted."""
        return self.lengths - np.maximum(self.prompt_lengths, 1)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Padded at the end; labels, (examples, longest), are -100 in the prompt and in the padding."""
        import torch

        inputs = self.tokens.padded(indices)
        columns = torch.arange(inputs["input_ids"].shape[1])
        first = torch.from_numpy(self.prompt_lengths[indices])[:, None]
        end = torch.from_numpy(self.lengths[indices])[:, None]
        target = (columns >= first) & (columns < end)
        inputs["labels"] = inputs["input_ids"].masked_fill(~target, IGNORED_LABEL)
        return Batch(inputs, len(indices), int(self.lengths[indices].sum()))

    def question(self, indices: NDArray[np.int64]) -> Batch:
        """The prompts, padded at the start so that generation goes on behind each."""
        inputs = self._prompts.padded(indices, left=True)
        return Batch(inputs, len(indices), int(self.prompt_lengths[indices].sum()))

    @functools.cached_property
    def _prompts(self) -> Tokens:
        rows = [self.tokens.row(i)[:length].tolist() for i, length in enumerate(self.prompt_lengths)]
        return Tokens.of(rows, self.tokens.padding_id)


@dataclass(frozen=True)
class ContinuationExamples(TextExamples):
    """A context with several continuations, one row each, of which one is right.

    Rows of example i are first_rows[i] to first_rows[i + 1]; `context_lengths`, (rows,), says where the continuation
    begins, `characters`, (rows,), how long its text is. Trained on the right continuation, asked with all.
    """

    first_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    context_lengths: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    characters: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example's longest row, shape (examples,)."""
        longest: NDArray[np.int64] = np.maximum.reduceat(self.tokens.lengths, self.first_rows[:-1])
        return longest

    @functools.cached_property
    def loss_terms(self) -> NDArray[np.int64]:
        """The tokens of the right continuation, shape (examples,)."""
        rows = self._right_rows(np.arange(len(self)))
        return self.tokens.lengths[rows] - np.maximum(self.context_lengths[rows], 1)

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the examples at `indices`, in order."""
        return np.concatenate([np.arange(self.first_rows[i], self.first_rows[i + 1]) for i in indices])

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The right continuations; labels, (examples, longest), are -100 outside the continuation."""
        return self._labelled(self._right_rows(indices), len(indices))

    def question(self, indices: NDArray[np.int64]) -> Batch:
        """All continuations, with their tokens as labels."""
        return self._labelled(self.rows(indices), len(indices))

    def _right_rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self.first_rows[:-1][indices] + self.labels[indices]
        return rows

    def _labelled(self, rows: NDArray[np.int64], samples: int) -> Batch:
        whole = PromptedExamples(self.tokens, rows, rows, prompt_lengths=self.context_lengths).batch(rows)
        return Batch(whole.inputs, samples, whole.tokens)


def _flat(rows: Sequence[Sequence[int]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.asarray(row, dtype) for row in rows])
