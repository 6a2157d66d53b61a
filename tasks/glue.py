"""The nine GLUE tasks: Wang et al. 2019, arXiv:1804.07461.

Scored on the validation splits (test labels are hidden), each metric once over all rows. STS-B is regression on the
raw 0..5 score, neither scaled nor clipped. MNLI is one training run and two evaluations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import DataError, SettingsError, suggestion
from tasks.base import Examples, Scores

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from tasks.sources import Source

SUBSET_SEED = 20_190_101
KINDS = ("classification", "regression")


@dataclass(frozen=True)
class GlueTask:
    """One GLUE task, described by `conf/task/glue/<config>.yaml`."""

    repository: str
    revision: str | None
    config: str
    kind: str
    text_columns: Sequence[str]
    labels: Sequence[str]
    headline: str
    reported_splits: Sequence[str]
    max_length: int
    epochs: float

    def __post_init__(self) -> None:
        for name in ("text_columns", "labels", "reported_splits"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in KINDS:
            raise SettingsError(f"task.kind={self.kind} is unknown.{suggestion(self.kind, KINDS)}")

    @property
    def outputs(self) -> int:
        """Classes, or 1 for regression."""
        return len(self.labels) if self.kind == "classification" else 1

    def encode(
        self, source: Source, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int, at_most: int | None
    ) -> Examples:
        """Tokenise one split; pairs are joined by the tokenizer and cut longest first."""
        table = self._checked(source.read(split), source, split)
        if at_most is not None and table.num_rows > at_most:
            chosen = np.random.default_rng(SUBSET_SEED).permutation(table.num_rows)[:at_most]
            table = table.take(np.sort(chosen))
        texts = [table.column(name).to_pylist() for name in self.text_columns]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        lengths = np.fromiter(map(len, encoded["input_ids"]), np.int64, table.num_rows)
        segments = encoded.get("token_type_ids") if len(texts) == 2 else None
        return Examples(
            input_ids=_flat(encoded["input_ids"], np.int32),
            token_type_ids=None if segments is None else _flat(segments, np.int8),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            labels=np.asarray(table.column("label"), np.int64 if self.kind == "classification" else np.float32),
            ids=np.asarray(table.column("idx"), np.int64),
        )

    def predict(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """The class of the largest logit (the lowest id among equals), or the regression output itself."""
        if self.kind == "regression":
            return outputs[:, 0]
        classes: NDArray[np.int64] = outputs.argmax(axis=1)
        return classes

    def score(self, predictions: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any]]) -> Scores:
        """GLUE's metrics of each reported split; with two splits the names carry the split's suffix."""
        from tasks.metrics.glue import GlueMetric, mean_or_none

        metric = GlueMetric(config_name=self.config, keep_in_memory=True)
        metrics: dict[str, float | None] = {}
        for split in self.reported_splits:
            suffix = split.removeprefix("validation")
            values = metric.compute(predictions=predictions[split], references=labels[split])
            metrics |= {f"{name}{suffix}": value for name, value in values.items()}
        if len(self.reported_splits) > 1:
            metrics["combined_score"] = mean_or_none(list(metrics.values()))
        reasons = {name: "undefined: predictions are constant" for name, value in metrics.items() if value is None}
        return Scores(100 * (metrics[self.headline] or 0.0), metrics, reasons)

    def _checked(self, table: pa.Table, source: Source, split: str) -> pa.Table:
        """The table, if it has the columns, the class names and labels in range. Raises DataError."""
        where = f"split '{split}' in {source.folder}"
        for column in (*self.text_columns, "label", "idx"):
            if column not in table.column_names:
                raise DataError(f"The {where} lacks the column '{column}'; it has {', '.join(table.column_names)}.")
            if table.column(column).null_count:
                raise DataError(f"The column '{column}' of the {where} has empty cells.")
        names = _class_names(table)
        if names is not None and list(names) != list(self.labels):
            raise DataError(f"The {where} has the classes {list(names)}; the task declares {list(self.labels)}.")
        labels = np.asarray(table.column("label"))
        top = len(self.labels) - 1 if self.kind == "classification" else 5
        wrong = labels[~((labels >= 0) & (labels <= top))]
        if len(wrong):
            raise DataError(f"The {where} has the label {wrong[0]}; labels must lie between 0 and {top}.")
        return table


def _flat(rows: Sequence[Sequence[int]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.asarray(row, dtype) for row in rows])


def _class_names(table: pa.Table) -> Sequence[str] | None:
    """Names of the label's classes as the parquet file's own metadata lists them."""
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    names: Sequence[str] | None = json.loads(metadata)["info"]["features"].get("label", {}).get("names")
    return names
