"""Complete records into rows: one row per method and its settings within a group, over its seeds.

A group is what may be ranked together: one task with one revision of its data, model, recipe, tuning effort, precision,
hardware and software. Nothing of another group enters a row, its rank or a comparison.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.leaderboard.columns import AVERAGED, GROUP, KEY, TASK

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas.core.groupby import DataFrameGroupBy

CONFIDENCE = 0.95
GROUP_LENGTH = 6
WHOLE_NUMBERS = [name for name in AVERAGED if name.endswith(("_parameters", "_bytes"))]
"""Shown as whole numbers, also where they differ from seed to seed."""


def rows_of(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per method settings, task and group, best first within a task and group.

    Scores in percent: `score_mean`, `score_std` (of the sample), `seeds`, and `score_low` to `score_high`, the 95 %
    t-interval of the mean over seeds. `rank` is that of the mean within the task and group, 1 is best, equal ones share
    the lowest. Costs are means over the seeds.
    """
    groups = runs.sort_values("seed", kind="stable").groupby(KEY, sort=True, observed=True)
    table = groups.agg(
        metric=("metric", "first"),
        combined_score_mean=("combined_score", "mean"),
        score_mean=("score", "mean"),
        score_std=("score", "std"),
        seeds=("seed", "nunique"),
        runs=("seed", "size"),
        learning_rate=("learning_rate", "mean"),
        **{name: (name, "mean") for name in AVERAGED},
    ).reset_index()
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(table["runs"] - 1, 1))
    half_width = quantile * table["score_std"] / np.sqrt(table["runs"])
    after = list(table.columns).index("seeds") + 1
    table.insert(after, "seed_list", _seed_lists(groups, len(table)))
    table.insert(after, "score_high", table["score_mean"] + half_width)
    table.insert(after, "score_low", table["score_mean"] - half_width)
    for name in WHOLE_NUMBERS:
        table[name] = table[name].round().astype("Int64")
    ranked = table.groupby([*TASK, *GROUP], observed=True)
    table.insert(0, "group", _names(table, GROUP))
    table.insert(after, "rank", ranked["score_mean"].rank(method="min", ascending=False).astype("Int64"))
    order = ["task", "group", "data_revision", "rank", "method", "settings_id"]
    return table.drop(columns="runs").sort_values(order, ignore_index=True)


def together(rows: pd.DataFrame, columns: Sequence[str]) -> list[NDArray[np.int64]]:
    """Positions of the rows of each distinct combination of values, in the order of the values.

    For loops over thousands of groups: a frame per group costs a millisecond each.
    """
    numbers = rows.groupby(list(columns), sort=True, observed=True).ngroup().to_numpy()
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(rows) else []


def _names(table: pd.DataFrame, columns: list[str]) -> pd.Series[str]:
    """A short name per distinct combination of values: the head of their hash, equal for equal values everywhere."""
    numbers = table.groupby(columns, observed=True).ngroup()
    first = table.loc[~numbers.duplicated(), columns].astype(str)
    names = [hashlib.sha256("\n".join(values).encode()).hexdigest()[:GROUP_LENGTH] for values in first.to_numpy()]
    return numbers.map(dict(zip(numbers[~numbers.duplicated()], names, strict=True)))


def _seed_lists(groups: DataFrameGroupBy[Any, Any], count: int) -> list[str]:
    """The distinct seeds of each group, ascending. One pass over the runs: a function per group takes seconds."""
    seeds: dict[int, set[int]] = defaultdict(set)
    for group, seed in zip(groups.ngroup().tolist(), groups.obj["seed"].tolist(), strict=True):
        seeds[group].add(seed)
    return [" ".join(map(str, sorted(seeds[group]))) for group in range(count)]
