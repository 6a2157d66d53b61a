"""What tasks on text share: reading a table, checking it, tokenising sentences and pairs, scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.errors import DataError
from bench.requirements import require_known
from tasks.base import Examples, Scores, StoredTask
from tasks.examples import TextExamples, Tokens
from tasks.rows import Columns, class_names, drawn, require_between, require_columns, require_numbers

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from tasks.sources import Source

BLOCK = 10_000
"""Rows that are tokenised at once."""
UNDEFINED = "undefined: the predictions or the labels are constant"


@dataclass(frozen=True, kw_only=True)
class TextTask(StoredTask):
    """A task whose examples are one or two texts and a class; described by a YAML in `conf/task`, scored by accuracy.

    A benchmark derives from it, says which metrics it computes, and overrides how an example is read where that is
    really different.
    """

    reports_several: ClassVar[bool] = True
    kinds: ClassVar[Sequence[str]] = ("classification",)
    highest_value: ClassVar[float] = 5.0
    """Greatest label of a regression task; the lowest is 0."""

    kind: str
    text_columns: Sequence[str]
    labels: Sequence[str]
    headline: str
    max_length: int
    epochs: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_columns", "labels"):
            self.make_tuple(name)
        require_known("task.kind", self.kind, self.kinds)
        require_known("task.headline", self.headline, self.metric_names)

    @property
    def metric_names(self) -> Sequence[str]:
        """The metrics that `score` gives of the reported splits."""
        return [f"accuracy{suffix_of(split)}" for split in self.reported_splits]

    @property
    def context_column(self) -> str | None:
        """The first text: a premise, a passage or a question may stand in several rows."""
        return self.text_columns[0]

    @property
    def outputs(self) -> int:
        """Classes, or 1 for regression."""
        return len(self.labels) if self.kind != "regression" else 1

    def encode(
        self,
        source: Source,
        split: str,
        preprocessor: PreTrainedTokenizerBase,
        max_length: int | None,
        at_most: int | None,
    ) -> Examples:
        """Tokenise one split."""
        table = self.checked(source.read(split), f"split '{split}' in {source.folder}")
        rows = self.chosen(table, at_most)
        return self.examples(table if rows is None else table.take(rows), preprocessor, max_length)

    def examples(self, table: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Examples:
        """The rows of a table; pairs are joined by the tokenizer and cut longest first."""
        texts = [table.column(name).to_pylist() for name in self.text_columns]
        return TextExamples(tokenised(tokenizer, texts, max_length), self.labels_of(table), self.ids_of(table))

    def labels_of(self, table: pa.Table) -> NDArray[Any]:
        """Class ids or scores, shape (rows,)."""
        return np.asarray(table.column("label"), np.float32 if self.kind == "regression" else np.int64)

    def ids_of(self, table: pa.Table) -> NDArray[np.int64]:
        """The rows' own numbers, shape (rows,)."""
        return np.asarray(table.column("idx"), np.int64)

    def chosen(self, table: pa.Table, at_most: int | None) -> NDArray[np.int64] | None:
        """Positions of at most `at_most` rows, drawn with a fixed seed; None for all."""
        return drawn(table.num_rows, at_most)

    def predict(self, answers: NDArray[np.float32], examples: Examples) -> Columns:
        """The class of the largest logit (the lowest id among equals), or the regression output itself."""
        values: NDArray[Any] = answers[:, 0] if self.kind == "regression" else answers.argmax(axis=1)
        return {"prediction": values, "scores": list(answers)}

    def metrics(self, split: str, predictions: Columns, examples: Examples) -> dict[str, float | None]:
        """The metrics of one split, as fractions."""
        return {"accuracy": float(np.mean(predictions["prediction"] == examples.labels))}

    def score(self, predictions: Mapping[str, Columns], examples: Mapping[str, Examples]) -> Scores:
        """The metrics of every reported split; those of "validation_matched" have "_matched" behind their names."""
        metrics: dict[str, float | None] = {}
        for split, columns in predictions.items():
            suffix = suffix_of(split)
            values = self.metrics(split, columns, examples[split])
            metrics |= {f"{name}{suffix}": value for name, value in values.items()}
        if len(predictions) > 1:
            metrics |= self.combined(metrics)
        reasons = {name: UNDEFINED for name, value in metrics.items() if value is None}
        return Scores(100 * (metrics[self.headline] or 0.0), metrics, reasons)

    def combined(self, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
        """What follows from the metrics of several splits; nothing for most tasks."""
        return {}

    def checked(self, table: pa.Table, where: str) -> pa.Table:
        """The table, if it has the columns, the class names and labels in range; rows without `idx` are numbered.

        Raises DataError.
        """
        if "idx" not in table.column_names:
            table = table.append_column("idx", [np.arange(table.num_rows)])
        require_columns(table, (*self.text_columns, "label", "idx"), where)
        names = class_names(table)
        if names is not None and list(names) != list(self.labels):
            raise DataError(f"The {where} has the classes {list(names)}; the task declares {list(self.labels)}.")
        top = self.highest_value if self.kind == "regression" else len(self.labels) - 1
        require_numbers(table, "label", where, whole=self.kind != "regression")
        require_between(np.asarray(table.column("label")), top, where)
        return table


def suffix_of(split: str) -> str:
    """What tells the metrics of a split from those of others: "_matched" of "validation_matched"."""
    return split[len(split.partition("_")[0]) :]


def tokenised(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], max_length: int | None) -> Tokens:
    """One text or a pair per row, cut longest first to `max_length` tokens with the model's own special tokens."""
    parts = []
    for start in range(0, len(texts[0]), BLOCK):  # what a tokenizer returns takes many times the room of the tokens
        block = [column[start : start + BLOCK] for column in texts]
        encoded = tokenizer(*block, truncation=True, max_length=max_length, return_attention_mask=False)
        segments = encoded.get("token_type_ids") if len(texts) == 2 else None
        parts.append(Tokens.of(encoded["input_ids"], padding_id(tokenizer), segments))
    return Tokens.joined(parts)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token id that fills what a batch's short rows lack."""
    return int(tokenizer.pad_token_id or 0)
