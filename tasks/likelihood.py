"""Multiple choice by likelihood, for decoders: the continuation of a question that the model finds most likely.

Trained on the right continuation with the loss on it alone. `accuracy` compares the sums of log-probabilities,
`accuracy_normalised` the sums by the number of characters of each choice, as EleutherAI's lm-evaluation-harness does
(its acc and acc_norm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.errors import DataError
from bench.requirements import require_known
from tasks.base import Examples, Scores
from tasks.examples import ContinuationExamples, Tokens
from tasks.prompted import PromptedTask, Row, filled, rows
from tasks.rows import Columns
from tasks.sources import TRAIN_SPLIT, Source
from tasks.text import padding_id

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

HEADLINES = ("accuracy", "accuracy_normalised")


@dataclass(frozen=True, kw_only=True)
class LikelihoodTask(PromptedTask):
    """A question with labelled choices and a key, in the columns of the AI2 sets; described by a YAML of its own."""

    kind: ClassVar[str] = "likelihood"

    question_column: str
    headline: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("task.headline", self.headline, HEADLINES)

    def encode(
        self,
        source: Source,
        split: str,
        preprocessor: PreTrainedTokenizerBase,
        max_length: int | None,
        at_most: int | None,
    ) -> ContinuationExamples:
        """Every question with each of its choices."""
        where = f"split '{split}' in {source.folder}"
        columns = (self.question_column, "choices", "answerKey")
        found, ids = self.drawn_rows(source, split, preprocessor, columns, at_most)
        questions = [_Question.of(row, self.question_column, where) for row in found]
        encoded = [self._rows(preprocessor, question) for question in questions]
        kept = np.arange(len(encoded))
        if split == TRAIN_SPLIT and max_length is not None:
            kept = np.array([i for i in kept if max(len(row.tokens) for row in encoded[i]) <= max_length], np.int64)
        if not len(kept):
            raise DataError(f"Every example of the {where} is longer than training.max_length={max_length}.")
        flat = [row for i in kept for row in encoded[i]]
        return ContinuationExamples(
            Tokens.of([row.tokens for row in flat], padding_id(preprocessor)),
            np.array([questions[i].right for i in kept], np.int64),
            ids[kept],
            dropped=len(encoded) - len(kept),
            first_rows=np.concatenate([[0], np.cumsum([len(encoded[i]) for i in kept])]),
            context_lengths=np.array([row.prompt_length for row in flat]),
            characters=np.array([len(choice) for i in kept for choice in questions[i].choices]),
        )

    def predict(self, answers: NDArray[np.float32], examples: ContinuationExamples) -> Columns:
        """The choices that both rules find, the headline's first; the lowest position among equals."""
        starts = examples.first_rows[1:-1]
        sums = np.split(answers.astype(np.float64), starts)
        by_length = np.split(answers / examples.characters, starts)
        found = {
            "accuracy": np.array([values.argmax() for values in sums]),
            "accuracy_normalised": np.array([values.argmax() for values in by_length]),
        }
        return {
            "prediction": found[self.headline],
            "most_likely": found["accuracy"],
            "most_likely_normalised": found["accuracy_normalised"],
            "log_likelihoods": sums,
        }

    def score(self, predictions: Mapping[str, Columns], examples: Mapping[str, Examples]) -> Scores:
        """Accuracy under both rules."""
        (split,) = predictions
        labels, columns = examples[split].labels, predictions[split]
        metrics: dict[str, float | None] = {
            "accuracy": float(np.mean(columns["most_likely"] == labels)),
            "accuracy_normalised": float(np.mean(columns["most_likely_normalised"] == labels)),
        }
        return Scores(100 * (metrics[self.headline] or 0.0), metrics)

    def _rows(self, tokenizer: PreTrainedTokenizerBase, question: _Question) -> list[Row]:
        prompt = filled(self.template, {"question": question.text})
        targets = [f" {choice}" for choice in question.choices]
        return rows(tokenizer, [prompt] * len(targets), targets, closed=False)


@dataclass(frozen=True)
class _Question:
    """A question, its choices and the position of the right one."""

    text: str
    choices: Sequence[str]
    right: int

    @classmethod
    def of(cls, row: Mapping[str, Any], column: str, where: str) -> _Question:
        """Read one row. Raises DataError where the key names no choice, and for a choice without text."""
        try:
            labels, texts = list(row["choices"]["label"]), list(row["choices"]["text"])
        except (KeyError, TypeError) as error:
            raise DataError(f"The {where} has choices without labels and texts: {row['choices']!r:.100}.") from error
        if row["answerKey"] not in labels:
            raise DataError(f"The {where} has the key '{row['answerKey']}' for choices labelled {labels}.")
        if not all(texts):
            raise DataError(f"The {where} has an empty choice: {row[column]!r}.")
        return cls(row[column], texts, labels.index(row["answerKey"]))
