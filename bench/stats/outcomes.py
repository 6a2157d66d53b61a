"""What a run did on each reported example, as far as its headline metric follows from it.

A metric is a statistic of means over examples: accuracy of one column, F1 of three, a correlation of five. So every
bootstrap of a metric is one of means. Where a benchmark scores groups of rows, as MultiRC does questions, such a group
is an example.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.records.store import PREDICTIONS_FILE
from bench.stats.resampling import resampled_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

RESAMPLES = 2_000
ROW = "id"
"""The column that numbers the rows: where it tells examples apart, every row is one."""


@dataclass(frozen=True)
class Metric:
    """A headline metric, as a fraction: what it takes of every example, and what it makes of the means of that.

    `columns` are read from the predictions; `of_rows` takes them to (rows, values), `of_means` takes (..., values) to
    (...). The values of an example's rows are added up, and `of_sums`, if there is one, takes (examples, values) on.
    """

    columns: tuple[str, ...]
    of_rows: Callable[..., Values]
    of_means: Callable[[Values], Values]
    split: str | None = None
    """The one split that it is about, where a task reports several."""
    example: str = ROW
    """The column that tells the examples apart."""
    of_sums: Callable[[Values], Values] | None = None

    @property
    def is_mean(self) -> bool:
        """Whether it is the share of right answers."""
        return self.of_rows in (_right, _as_told) and self.example == ROW

    def standard_error(self, values: Values) -> float | None:
        """Standard error over examples of the metric's mean over seeds, by bootstrap; None where it is not defined.

        `values` has shape (seeds, examples, values). All seeds are drawn on the same examples.
        """
        seeds, examples, columns = values.shape
        means = resampled_means(values.transpose(1, 0, 2).reshape(examples, -1), RESAMPLES, np.random.default_rng(0))
        replicates = self.of_means(means.reshape(-1, seeds, columns)).mean(axis=-1)
        defined = replicates[np.isfinite(replicates)]
        return float(defined.std()) if len(defined) else None


@dataclass(frozen=True)
class Outcomes:
    """One run on its reported examples: their numbers, (examples,), and the metric's values, (examples, values)."""

    ids: NDArray[np.int64]
    values: Values
    answers_alike: bool
    """Whether every example got the same answer; False also where the metric is not about answers that can be alike."""


def _right(label: NDArray[Any], prediction: NDArray[Any]) -> Values:
    return np.asarray(label == prediction, dtype=np.float64)[:, None]


def _as_told(credit: NDArray[Any]) -> Values:
    return np.asarray(credit, dtype=np.float64)[:, None]


def _only(means: Values) -> Values:
    return np.asarray(means[..., 0])


def _errors(label: NDArray[Any], prediction: NDArray[Any]) -> Values:
    """True positives, false positives and false negatives of class 1."""
    positive, found = label == 1, prediction == 1
    return np.stack([positive & found, ~positive & found, positive & ~found], axis=1).astype(np.float64)


@np.errstate(invalid="ignore")
def _f1(means: Values) -> Values:
    """NaN where the class neither occurs nor is predicted."""
    true, false, missed = np.moveaxis(means, -1, 0)
    return np.asarray(2 * true / (2 * true + false + missed))


def _products(label: NDArray[Any], prediction: NDArray[Any]) -> Values:
    """x, y and their squares and product."""
    x, y = np.asarray(prediction, dtype=np.float64), np.asarray(label, dtype=np.float64)
    return np.stack([x, y, x * x, y * y, x * y], axis=1)


@np.errstate(divide="ignore", invalid="ignore")
def _correlation(means: Values) -> Values:
    """Pearson's r; of two classes it is Matthews' coefficient. NaN where one side is constant."""
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    return np.asarray((xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y)))


def _correlation_or_0(means: Values) -> Values:
    """Matthews' coefficient as GLUE's CoLA scores it: 0 where all predictions are of one class."""
    return np.nan_to_num(_correlation(means), nan=0.0)


def _of_three_classes(label: NDArray[Any], prediction: NDArray[Any]) -> Values:
    """Whether it is right, then the errors of each class."""
    of_classes = [_errors(label == number, prediction == number) for number in range(3)]
    return np.concatenate([_right(label, prediction), *of_classes], axis=1)


def _accuracy_and_macro_f1(means: Values) -> Values:
    """CB's score: the mean of both; the F1 of a class that is neither there nor predicted is 0."""
    f1 = [_f1_or_0(means[..., first : first + 3]) for first in (1, 4, 7)]
    return np.asarray((means[..., 0] + np.mean(f1, axis=0)) / 2)


def _of_options(label: NDArray[Any], prediction: NDArray[Any]) -> Values:
    """Whether an answer option is wrong, then the errors; a prediction that is no class is the other one."""
    valid = np.where(np.isin(prediction, (0, 1)), prediction, 1 - label)
    return np.concatenate([1 - _right(label, prediction), _errors(label, valid)], axis=1)


def _of_questions(sums: Values) -> Values:
    """Whether all of a question's options are right, then the errors."""
    return np.concatenate([sums[:, :1] == 0, sums[:, 1:]], axis=1)


def _exact_match_and_f1(means: Values) -> Values:
    """MultiRC's score: the mean of the exact match over questions and F1 over options."""
    return np.asarray((means[..., 0] + _f1_or_0(means[..., 1:])) / 2)


def _f1_or_0(means: Values) -> Values:
    return np.nan_to_num(_f1(means), nan=0.0)


BOTH = ("label", "prediction")
METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(BOTH, _right, _only),
    "accuracy_matched": Metric(BOTH, _right, _only, "validation_matched"),
    "accuracy_normalised": Metric(BOTH, _right, _only),
    "exact_match_strict": Metric(("correct_strict",), _as_told, _only),
    "f1": Metric(BOTH, _errors, _f1),
    "matthews_correlation": Metric(BOTH, _products, _correlation_or_0),
    "pearson": Metric(BOTH, _products, _correlation),
}


OF_TASKS: Mapping[str, Metric] = {
    "superglue/cb": Metric(BOTH, _of_three_classes, _accuracy_and_macro_f1),
    "superglue/multirc": Metric(BOTH, _of_options, _exact_match_and_f1, example="question", of_sums=_of_questions),
    "superglue/record": Metric(("credit",), _as_told, _only, example="query"),
}
"""Tasks whose headline is a mean of metrics of their own."""


def metric_of(task: str, headline: str | None) -> Metric | None:
    """A task's headline metric; None for one that is not known."""
    return OF_TASKS.get(task, METRICS.get(headline or ""))


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
        table = pq.read_table(file, columns=list({"split": 0, metric.example: 0} | dict.fromkeys(metric.columns)))
    except (OSError, pa.ArrowException):
        return None
    splits = table["split"].to_pylist()
    counted = np.array(["/" not in split and metric.split in (None, split) for split in splits], dtype=bool)
    ids = table[metric.example].to_numpy()[counted]
    order = np.argsort(ids, kind="stable")
    columns = {name: table[name].to_numpy()[counted][order] for name in metric.columns}
    if not len(ids):
        return None
    values = metric.of_rows(*columns.values())
    answers_alike = "prediction" in columns and len(np.unique(columns["prediction"])) == 1
    if metric.example == ROW:
        return Outcomes(ids[order], values, answers_alike)
    examples, starts = np.unique(ids[order], return_index=True)
    sums = np.add.reduceat(values, starts, axis=0)
    return Outcomes(examples, sums if metric.of_sums is None else metric.of_sums(sums), answers_alike)
