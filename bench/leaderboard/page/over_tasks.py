"""One row per method over several tasks, with the columns of the boards' rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bench.leaderboard.boards import Boards
from bench.leaderboard.columns import AVERAGED, ROW, TASK
from bench.leaderboard.rows import CONFIDENCE


def over_tasks(boards: Boards, groups: Sequence[str]) -> pd.DataFrame:
    """The methods of these groups over one set of tasks each: the one that covers most results, methods times tasks.

    `members` lists the index of each task's row in `boards.rows`. Costs are means over the tasks. `score_low` to
    `score_high` is the 95 % t-interval of the mean over tasks, over the seeds that all tasks share; none where a task
    has other seeds. `thresholds` and `shares` are the performance profile, where there is one. `separable_from_best`
    is Nemenyi's test of mean ranks against the row with the best mean score.
    """
    wanted = boards.overall[boards.overall["group"].isin(groups)]
    tables = [_of_group(boards, of_group) for _, of_group in wanted.groupby("group", sort=True)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _of_group(boards: Boards, overall: pd.DataFrame) -> pd.DataFrame:
    chosen = overall[overall["tasks"] == overall.groupby("tasks", sort=True)["task_count"].sum().idxmax()]
    rows = boards.rows[boards.rows["group"] == chosen["group"].iloc[0]]
    tasks = str(chosen["tasks"].iloc[0]).split()
    names = rows["task"].astype(str)
    members = rows[names.isin(tasks) | (names + "@" + rows["data_revision"].astype(str)).isin(tasks)]
    table = chosen.drop(columns="trainable_parameters").merge(_over_members(members), on=ROW, validate="one_to_one")
    table = table.merge(_profiles(boards, table), on=ROW, how="left")
    runs = boards.runs[boards.runs["row"].isin(members["row"])]
    half_width = _half_widths(runs).reindex(pd.MultiIndex.from_frame(table[ROW]))
    return table.rename(columns={"mean_score": "score_mean"}).assign(
        task=f"mean of {len(tasks)} tasks",
        data_revision="",
        separable_from_best=_separable(table),
        score_low=table["mean_score"] - half_width.to_numpy(),
        score_high=table["mean_score"] + half_width.to_numpy(),
    )


def _over_members(members: pd.DataFrame) -> pd.DataFrame:
    """Of each method the means of its costs, its learning rate and seeds if all tasks share them, and its rows."""
    by_method = members.groupby(ROW, sort=True)
    shared = by_method[["learning_rate", "seed_list"]]
    return (
        pd.concat(
            [
                by_method[AVERAGED].mean().where(by_method[AVERAGED].count().eq(by_method.size(), axis=0)),
                shared.first().where(shared.nunique() == 1),
                pd.Series({method: list(rows) for method, rows in by_method.groups.items()}, name="members"),
            ],
            axis=1,
        )
        .rename_axis(ROW)
        .reset_index()
    )


def _profiles(boards: Boards, table: pd.DataFrame) -> pd.DataFrame:
    """The performance profile of each method as two lists."""
    named = boards.profiles[["group", "tasks"]].eq(table[["group", "tasks"]].iloc[0]).all(axis=1)
    lists = boards.profiles[named].groupby(ROW)[["threshold", "share"]].agg(list)
    return lists.rename(columns={"threshold": "thresholds", "share": "shares"}).reset_index()


def _separable(table: pd.DataFrame) -> pd.Series[bool]:
    """Whether a mean rank lies the critical difference or more from that of the first row; missing for a single row."""
    best = table.loc[table["rank"] == 1, "mean_rank"].iloc[0]
    apart = (table["mean_rank"] - best).abs() >= table["critical_difference"].astype(float)
    return apart.astype("boolean").where(table["critical_difference"].notna())


def _half_widths(runs: pd.DataFrame) -> pd.Series[float]:
    """Half of the interval of each method's mean over tasks, by method and settings; NaN where it has none."""
    scores = runs.pivot_table(index=[*ROW, "seed"], columns=TASK, values="score", observed=True)
    by_seed = scores.mean(axis=1, skipna=False).groupby(ROW)
    counted = by_seed.count()
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(counted - 1, 1))
    return (quantile * by_seed.std() / np.sqrt(counted)).where(counted == by_seed.size())
