"""Paired tests between rows of a group, on the same examples and seeds: against its best, and against two references.

Right-or-wrong metrics are compared by McNemar's test (over several seeds, the sign-flip test that it is a case of), the
others by the paired bootstrap. P-values are corrected by Holm within each family: one group, one task, one row that all
others are compared with. The best is chosen by the very scores that are tested, so its family is held to the stricter
level that allows for this choice, and only rows below it are told from it. What is tested are these trained models on
new examples, not the methods retrained with new seeds (`bench/stats/paired.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.leaderboard.columns import TASK
from bench.leaderboard.rows import as_list, together
from bench.stats.intervals import standard_error_over_examples
from bench.stats.outcomes import Metric, Outcomes, metric_of, outcomes
from bench.stats.paired import (
    holm,
    level_against_best,
    mcnemar,
    paired_bootstrap_of_means,
    paired_mean_bootstrap,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.05
RESAMPLES = 10_000
COSTLY_RESAMPLES = 2_000
"""Of statistics that differ on every example."""
SEED = 0
BEST = "best"
REFERENCES = ("full", "lora")
"""Methods that every other one is compared with, beside the best."""
TOGETHER = ["group", *TASK]
COMPARISONS = [
    *TOGETHER,
    "against",
    "method",
    "settings_id",
    "other_method",
    "other_settings_id",
    "metric",
    "test",
    "seeds",
    "examples",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
    "p_value_holm",
    "separable",
]


@dataclass(frozen=True)
class Comparison:
    """A row less another, in points, with the 95 % bootstrap interval, and how likely so much is by chance."""

    test: str
    seeds: int
    examples: int
    difference: float
    difference_low: float
    difference_high: float
    p_value: float


@dataclass(frozen=True)
class Runs:
    """The runs behind one row, by seed."""

    metric: Metric | None
    folders: Mapping[int, str | Path]

    @functools.cached_property
    def outcomes(self) -> dict[int, Outcomes]:
        """What each run did on each example, where its predictions are there."""
        if self.metric is None:
            return {}
        found = {seed: outcomes(folder, self.metric) for seed, folder in self.folders.items()}
        return {seed: of_run for seed, of_run in found.items() if of_run is not None}

    @property
    def standard_error(self) -> float | None:
        """Standard error of the seeds' mean score over examples, in points; None where their examples differ."""
        metric = self.metric
        values = [of_run.values for of_run in self.outcomes.values()]
        if metric is None or not values or len({len(of_run) for of_run in values}) > 1:
            return None
        if metric.is_mean:
            error = standard_error_over_examples(np.stack(values)[..., 0])
        else:
            error = metric.standard_error(np.stack(values))
        return None if error is None else 100 * error


def compared(row: Runs, other: Runs) -> Comparison | None:
    """The comparison of two rows on the seeds that they share; None where they share no seed and examples."""
    metric = row.metric
    if metric is None or metric is not other.metric:
        return None
    pairs = [
        (of_run, other.outcomes[seed])
        for seed, of_run in sorted(row.outcomes.items())
        if seed in other.outcomes and np.array_equal(of_run.ids, other.outcomes[seed].ids)
    ]
    if not pairs or len({of_run.ids.tobytes() for of_run, _ in pairs}) > 1:
        return None
    first, second = (np.stack([pair[side].values for pair in pairs]) for side in (0, 1))
    return _tested(metric, first, second)


def _tested(metric: Metric, first: NDArray[np.float64], second: NDArray[np.float64]) -> Comparison | None:
    """The test that fits the metric; both have shape (seeds, examples, values)."""
    generator = np.random.default_rng(SEED)
    seeds, examples, _ = first.shape
    if metric.is_mean:
        right = first[..., 0], second[..., 0]
        found = paired_mean_bootstrap(*right, generator, RESAMPLES)
        test, p_value = "McNemar" if seeds == 1 else "sign flip", mcnemar(*right).p_value
    else:
        try:
            found = paired_bootstrap_of_means(first, second, metric.of_means, generator, COSTLY_RESAMPLES)
        except ValueError:  # undefined: one of them predicts a constant
            return None
        test, p_value = "paired bootstrap", found.p_value
    low, high = 100 * found.interval.low, 100 * found.interval.high
    return Comparison(test, seeds, examples, 100 * found.difference, low, high, p_value)


def comparisons(rows: pd.DataFrame, runs: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All comparisons, and `rows` with two more columns; `root` is the folder that the runs' folders lie in.

    The columns: `standard_error_over_examples` in points, and `separable_from_best`, which is missing where predictions
    or a paired test are.
    """
    of_row = runs_of_rows(rows, runs, root)
    found: list[pd.DataFrame] = []
    separable: dict[Any, bool] = {}
    for positions in together(rows, TOGETHER):
        if not any(of_row[position].outcomes for position in positions):
            continue
        members = rows.iloc[positions]
        head = {name: members[name].iloc[0] for name in TOGETHER}
        for against, reference in _references(members):
            family = _family(members, reference, of_row)
            if len(family):
                found.append(family.assign(against=against, **head))
                if against == BEST:
                    separable |= dict(family["separable"]) | {reference: False}
    errors = [of_row[index].standard_error for index in rows.index]
    table = rows.assign(
        standard_error_over_examples=pd.array(errors, dtype="Float64"),
        separable_from_best=pd.array([separable.get(index) for index in rows.index], dtype="boolean"),
    )
    tested = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COMPARISONS)
    return tested[COMPARISONS], table


def runs_of_rows(rows: pd.DataFrame, runs: pd.DataFrame, root: Path) -> list[Runs]:
    """The runs behind each row, in the order of the rows."""
    folders: dict[str, dict[int, str | Path]] = {}
    for row, seed, folder in zip(*(as_list(runs[name]) for name in ("row", "seed", "folder")), strict=True):
        folders.setdefault(row, {}).setdefault(seed, f"{root}/{folder}")
    return [
        Runs(metric_of(task, metric), folders[row])
        for task, metric, row in zip(*(as_list(rows[name]) for name in ("task", "metric", "row")), strict=True)
    ]


def _references(members: pd.DataFrame) -> Iterator[tuple[str, int]]:
    """What the rows of a group are compared with, by name, and its index: the best, and the best row of a reference."""
    if len(members) > 1:
        yield BEST, _first(members)
        for method in REFERENCES:
            of_method = members[members["method"] == method]
            if len(of_method):
                yield method, _first(of_method)


def _first(members: pd.DataFrame) -> int:
    """Index of the row with the highest score."""
    return int(members.index[int(members["score_mean"].argmax())])


def _family(members: pd.DataFrame, reference: int, of_row: Sequence[Runs]) -> pd.DataFrame:
    """The comparisons of all other rows with one, by the index of the row."""
    tested = {
        index: comparison
        for index in members.index
        if index != reference and (comparison := compared(of_row[index], of_row[reference])) is not None
    }
    if not tested:
        return pd.DataFrame()
    table = pd.DataFrame([vars(comparison) for comparison in tested.values()], index=list(tested))
    of_reference = members.loc[reference]
    table["method"], table["settings_id"] = members["method"], members["settings_id"]
    table["other_method"], table["other_settings_id"] = of_reference["method"], of_reference["settings_id"]
    table["metric"] = of_reference["metric"]
    table["p_value_holm"] = holm(table["p_value"])
    table["separable"] = table["p_value_holm"] <= LEVEL
    if reference == _first(members):
        level = level_against_best(len(members), LEVEL)
        table["separable"] = (table["p_value_holm"] <= level) & (table["difference"] < 0)
    return table
