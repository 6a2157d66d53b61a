"""Complete records into rows: one row per method and its settings within a group, over its seeds.

A group is what may be ranked together: one task with one revision of its data and its settings, model, recipe, tuning
effort, precision, hardware and software. Nothing of another group enters a row, its rank or a comparison.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.leaderboard.columns import AVERAGED, COSTS, KEY, TASK

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
DECIMALS = 9
"""Of a mean score, in percent: equal ones stay equal in whatever order they were added up."""
DIGITS_OF_SETTINGS = 4
OF_LOST = ["folder", "group", "row", *KEY, "seed", "status"]
"""What is used of runs that ended without a score."""
WITHOUT_SCORE = ["group", "row", *KEY, "seed_list", "endings"]
WHOLE_NUMBERS = [name for name in AVERAGED if name.endswith(("_parameters", "_bytes"))]
"""Shown as whole numbers, also where they differ from seed to seed."""


def rows_of(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per method settings, task and group, best first within a task and group.

    Scores in percent: `score_mean`, `score_std` (of the sample), `seeds`, and `score_low` to `score_high`, the 95 %
    t-interval of the mean over seeds: mean ± t(n - 1) · std / √n (Student 1908), which takes the scores for normally
    distributed. Intervals that overlap do not show that two methods are equal. `rank` is that of the mean within the
    task and group, 1 is best, equal ones share the lowest. Costs are means over the seeds, those of `COSTS` with their
    standard deviations.
    """
    numbers, _ = pd.factorize(runs["row"])
    _, first = np.unique(numbers, return_index=True)
    sizes = np.bincount(numbers)
    mean = functools.partial(_means, runs, numbers, len(sizes))
    score_mean = mean("score").round(DECIMALS)
    score_std = _deviations(runs, numbers, len(sizes), "score")
    half_width = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(sizes - 1, 1)) * score_std / np.sqrt(sizes)
    seed_lists = _seed_lists(runs["seed"].tolist(), numbers.tolist(), len(sizes))
    table = runs.iloc[first][["group", "row", *KEY, "metric"]].assign(
        combined_score_mean=mean("combined_score").round(DECIMALS),
        score_mean=score_mean,
        score_std=score_std,
        score_low=score_mean - half_width,
        score_high=score_mean + half_width,
        seeds=[len(seeds) for seeds in seed_lists],
        seed_list=[" ".join(map(str, seeds)) for seeds in seed_lists],
        learning_rate=np.where(runs.groupby(numbers)["learning_rate"].nunique() == 1, mean("learning_rate"), np.nan),
        **{name: mean(name) for name in AVERAGED},
        **{f"{name}_std": _deviations(runs, numbers, len(sizes), name) for name in COSTS},
    )
    for name in WHOLE_NUMBERS:
        table[name] = table[name].round().astype("Int64")
    ranks = table.groupby([*TASK, "group"])["score_mean"].rank(method="min", ascending=False)
    table.insert(list(table.columns).index("metric"), "rank", ranks.astype("Int64"))
    order = ["task", "group", *TASK[1:], "rank", "method", "settings_id"]
    return table.sort_values(order, ignore_index=True)


def last_of_each_seed(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without those that were repeated: of several of one row and seed the one counts that finished last.

    Where that is equal or unknown, the one whose folder, which ends with the run id, comes last. The order stays.
    """
    by_end = runs.sort_values(["finished_at", "folder"], na_position="first")
    return by_end.drop_duplicates(["row", "seed"], keep="last").sort_index()


def lost_seeds(rows: pd.DataFrame, lost: pd.DataFrame) -> list[int]:
    """How many seeds of each row have no score: those of the runs `lost` that no complete run has."""
    seeds: dict[str, set[int]] = {}
    for row, seed in zip(as_list(lost["row"]), as_list(lost["seed"]), strict=True):
        seeds.setdefault(row, set()).add(seed)
    return [
        len(seeds.get(row, set()) - set(map(int, complete.split())))
        for row, complete in zip(as_list(rows["row"]), as_list(rows["seed_list"]), strict=True)
    ]


def without_score(rows: pd.DataFrame, lost: pd.DataFrame) -> pd.DataFrame:
    """What would be rows if one of their runs had a score: their seeds, and how these ended (`endings`)."""
    found = lost[~lost["row"].isin(rows["row"])].sort_values([*KEY, "seed"]).drop_duplicates(["row", "seed"])
    by_row = found.groupby("row", sort=False)
    table = by_row[["group", *KEY]].first().reset_index()
    return table.assign(
        seed_list=by_row["seed"].agg(lambda seeds: " ".join(map(str, seeds))).to_numpy(dtype=str),
        endings=by_row["status"].agg(lambda statuses: " ".join(statuses)).to_numpy(dtype=str),
    )[WITHOUT_SCORE]


def method_labels(table: pd.DataFrame) -> pd.Series[str]:
    """The methods; where a group has several settings of one, with as much of the settings' id as tells them apart."""
    methods, settings = table["method"].astype(str), table["settings_id"].astype(str)
    short = settings.str[:DIGITS_OF_SETTINGS]
    of_method = table.assign(settings=settings, short=short).groupby(["group", "method"])
    count, count_of_short = (of_method[name].transform("nunique") for name in ("settings", "short"))
    shown = short.where(count_of_short == count, settings)
    return methods.where(count == 1, methods + " (" + shown + ")")


def _deviations(runs: pd.DataFrame, numbers: NDArray[np.intp], rows: int, column: str) -> NDArray[np.float64]:
    """Standard deviation (of the sample) of a column's known values in each row; NaN where fewer than two are known."""
    values = runs[column].to_numpy(dtype=float, na_value=np.nan)
    known = ~np.isnan(values)
    squares = (values - _means(runs, numbers, rows, column)[numbers])[known] ** 2
    sums, counts = np.bincount(numbers[known], squares, rows), np.bincount(numbers[known], minlength=rows)
    return np.sqrt(np.where(counts > 1, sums / np.maximum(counts - 1, 1), np.nan))


def _means(runs: pd.DataFrame, numbers: NDArray[np.intp], rows: int, column: str) -> NDArray[np.float64]:
    """Mean of a column's known values in each row; NaN where none is known."""
    values = runs[column].to_numpy(dtype=float, na_value=np.nan)
    known = ~np.isnan(values)
    sums, counts = np.bincount(numbers[known], values[known], rows), np.bincount(numbers[known], minlength=rows)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _seed_lists(seeds: Sequence[int], numbers: Sequence[int], rows: int) -> list[list[int]]:
    """The distinct seeds of each row, ascending."""
    found: list[set[int]] = [set() for _ in range(rows)]
    for seed, number in zip(seeds, numbers, strict=True):
        found[number].add(seed)
    return [sorted(of_row) for of_row in found]


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries, several times as fast as pandas makes them of text."""
    columns = [as_list(table[name]) for name in table]
    return [dict(zip(table.columns, values, strict=True)) for values in zip(*columns, strict=True)]


def as_list(column: pd.Series[Any]) -> list[Any]:
    """The values of a column, missing text as None; equal texts are made once."""
    if not isinstance(column.dtype, pd.StringDtype):
        return column.to_numpy(dtype=object).tolist()
    places, texts = pd.factorize(column)  # -1 where it is missing
    known = np.array([*texts.to_numpy(dtype=object), None], dtype=object)
    return known[places].tolist()


def together(rows: pd.DataFrame, columns: Sequence[str]) -> list[NDArray[np.int64]]:
    """Positions of the rows of each distinct combination of values, in the order of the values.

    For loops over thousands of groups: a frame per group costs a millisecond each.
    """
    numbers = rows.groupby(list(columns), sort=True, observed=True).ngroup().to_numpy()
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(rows) else []


def shared(rows: pd.DataFrame, groups: Sequence[NDArray[np.int64]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """What all rows of each group, given by their positions, have in these columns."""
    return as_records(rows[list(columns)].iloc[[members[0] for members in groups]])
