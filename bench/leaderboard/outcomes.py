"""What a run did on each reported example, as far as its headline metric follows from it.

A metric is a statistic of means over examples: accuracy of one column, F1 of three, a correlation of five. So every
bootstrap of a metric is one of means. Metrics that are none (MultiRC's, over questions) are not compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

PREDICTIONS_FILE = "predictions.parquet"


@dataclass(frozen=True)
class Metric:
    """A headline metric, as a fraction: what it takes of every example, and what it makes of the means of that.

    `columns` are read from the predictions; `of_examples` takes them to (examples, values), `of_means` takes
    (..., values) to (...).
    """

    columns: tuple[str, ...]
    of_examples: Callable[..., Values]
    of_means: Callable[[Values], Values]
    split: str | None = None
    """The one split that it is about, where a task reports several."""

    @property
    def is_mean(self) -> bool:
        """Whether it is the share of right answers."""
        return self.of_means is _only


@dataclass(frozen=True)
class Outcomes:
    """One run on its reported examples: their numbers, (examples,), and the metric's values, (examples, values)."""

    ids: NDArray[np.int64]
    values: Values


def _right(label: NDArray[Any], prediction: NDArray[Any]) -> Values:
    return np.asarray(label == prediction, dtype=np.float64)[:, None]


def _as_told(right: NDArray[Any]) -> Values:
    return np.asarray(right, dtype=np.float64)[:, None]


def _only(means: Values) -> Values:
    return np.asarray(means[..., 0])


def _errors(label: NDArray[Any], prediction: NDArray[Any]) -> Values:
    """True positives, false positives and false negatives of class 1."""
    positive, found = label == 1, prediction == 1
    return np.stack([positive & found, ~positive & found, positive & ~found], axis=1).astype(np.float64)


def _f1(means: Values) -> Values:
    true, false, missed = np.moveaxis(means, -1, 0)
    return np.asarray(2 * true / (2 * true + false + missed))


def _products(label: NDArray[Any], prediction: NDArray[Any]) -> Values:
    """x, y and their squares and product."""
    x, y = np.asarray(prediction, dtype=np.float64), np.asarray(label, dtype=np.float64)
    return np.stack([x, y, x * x, y * y, x * y], axis=1)


def _correlation(means: Values) -> Values:
    """Pearson's r; of two classes it is Matthews' coefficient."""
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    return np.asarray((xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y)))


BOTH = ("label", "prediction")
METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(BOTH, _right, _only),
    "accuracy_matched": Metric(BOTH, _right, _only, "validation_matched"),
    "accuracy_normalised": Metric(BOTH, _right, _only),
    "exact_match_strict": Metric(("correct_strict",), _as_told, _only),
    "f1": Metric(BOTH, _errors, _f1),
    "matthews_correlation": Metric(BOTH, _products, _correlation),
    "pearson": Metric(BOTH, _products, _correlation),
}


def outcomes(folder: str | Path, metric: Metric) -> Outcomes | None:
    """What the run in this folder did, in the order of the examples' numbers; None where its predictions are missing.

    Diagnostic sets, whose splits lie in a folder of their own ("axb/test"), do not count.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = f"{folder}/{PREDICTIONS_FILE}"
    if not os.path.isfile(file):
        return None
    try:
        table = pq.read_table(file, columns=["split", "id", *metric.columns])
    except (OSError, pa.ArrowException):
        return None
    splits = table["split"].to_pylist()
    counted = np.array(["/" not in split and metric.split in (None, split) for split in splits], dtype=bool)
    ids = table["id"].to_numpy()[counted]
    order = np.argsort(ids, kind="stable")
    columns = [table[name].to_numpy()[counted][order] for name in metric.columns]
    return Outcomes(ids[order], metric.of_examples(*columns)) if len(ids) else None
