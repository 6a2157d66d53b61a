"""One row per method over several tasks, with the columns of the boards' rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bench.leaderboard.boards import Boards
from bench.leaderboard.columns import AVERAGED, ROW, TASK
from bench.leaderboard.comparisons import LEVEL
from bench.leaderboard.rows import CONFIDENCE, WHOLE_NUMBERS
from bench.leaderboard.task_sets import labels


def over_tasks(boards: Boards, runs: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """The methods of these groups over one set of tasks each: the one that covers most results, methods times tasks.

    `members` lists the index of each task's row in `boards.rows`. Costs are means over the tasks. `score_low` to
    `score_high` is the 95 % t-interval of the mean over tasks, over the seeds that all tasks share; none where a task
    has other seeds. `thresholds` and `shares` are the performance profile, where there is one. `separable_from_best`
    is Nemenyi's test against `best`, the row with the lowest mean rank.
    """
    overall, rows, runs_of, profiles = (
        dict(iter(table[table["group"].isin(groups)].groupby("group", sort=True)))
        for table in (boards.overall, boards.rows, runs, boards.profiles)
    )
    nothing = boards.profiles.head(0)
    tables = [_of_group(overall[name], rows[name], runs_of[name], profiles.get(name, nothing)) for name in overall]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _of_group(overall: pd.DataFrame, rows: pd.DataFrame, runs: pd.DataFrame, profiles: pd.DataFrame) -> pd.DataFrame:
    """The rows over all tasks of one group, from what the boards have of it."""
    name = overall.groupby("task_set", sort=True)["task_count"].sum().idxmax()
    chosen = overall[overall["task_set"] == name].drop(columns=["trainable_parameters"])
    listed = str(chosen["tasks"].iloc[0]).split()
    members = rows[labels(rows).isin(listed)]
    table = chosen.merge(_over_members(members), on=ROW, validate="one_to_one")
    table = table.merge(_lists(profiles[profiles["task_set"] == name]), on=ROW, how="left")
    half_width = _half_widths(runs[runs["row"].isin(members["row"])]).reindex(pd.MultiIndex.from_frame(table[ROW]))
    return table.rename(columns={"mean_score": "score_mean"}).assign(
        task=f"mean of {len(listed)} tasks",
        data_revision="",
        task_settings_id="",
        best=table["mean_rank"] == table["mean_rank"].min(),
        separable_from_best=_separable(table),
        score_low=table["mean_score"] - half_width.to_numpy(),
        score_high=table["mean_score"] + half_width.to_numpy(),
    )


def _over_members(members: pd.DataFrame) -> pd.DataFrame:
    """Of each method its mean costs and rows, and its learning rate and seeds if all tasks share them."""
    by_method = members.groupby(ROW, sort=True)
    costs = by_method[AVERAGED].mean().where(by_method[AVERAGED].count().eq(by_method.size(), axis=0))
    costs[WHOLE_NUMBERS] = costs[WHOLE_NUMBERS].round().astype("Int64")
    shared = by_method[["learning_rate", "seed_list"]]
    return (
        pd.concat(
            [
                costs,
                shared.first().where(shared.nunique() == 1),
                pd.Series({method: list(rows) for method, rows in by_method.groups.items()}, name="members"),
            ],
            axis=1,
        )
        .rename_axis(ROW)
        .reset_index()
    )


def _lists(profiles: pd.DataFrame) -> pd.DataFrame:
    """The performance profile of each method as two lists."""
    lists = profiles.groupby(ROW)[["threshold", "share"]].agg(list)
    return lists.rename(columns={"threshold": "thresholds", "share": "shares"}).reset_index()


def _separable(table: pd.DataFrame) -> pd.Series[bool]:
    """Whether a mean rank lies the critical difference or more behind the best; missing for a single row.

    None does where Friedman's test does not find that some methods differ (Demšar 2006, section 3.2.2).
    """
    behind = table["mean_rank"] - table["mean_rank"].min()
    some_differ = table["friedman_p_value"].astype(float) <= LEVEL
    apart = some_differ & (behind >= table["critical_difference"].astype(float))
    return apart.astype("boolean").where(table["critical_difference"].notna())


def _half_widths(runs: pd.DataFrame) -> pd.Series[float]:
    """Half of the interval of each method's mean over tasks, by method and settings; NaN where it has none."""
    scores = runs.pivot_table(index=[*ROW, "seed"], columns=TASK, values="score", observed=True)
    by_seed = scores.mean(axis=1, skipna=False).groupby(ROW)
    counted = by_seed.count()
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(counted - 1, 1))
    return (quantile * by_seed.std() / np.sqrt(counted)).where(counted == by_seed.size())
