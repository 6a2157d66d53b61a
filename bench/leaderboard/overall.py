"""Rows of several tasks into one per method: averages, ranks and shares of tasks won, over equal sets of tasks only.

A method enters the comparison over a set of tasks if it has every one of them; each set that some method has as its
own is a comparison of its own, so that nothing is averaged over what another method lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.leaderboard.columns import GROUP, KEY, ROW
from bench.leaderboard.statistics.aggregates import aggregates
from bench.leaderboard.statistics.ranking import borda_counts, critical_difference, mean_ranks, win_rates
from tasks.metrics import vtab
from tasks.metrics.averages import glue_average, glue_average_official, superglue_average

RESAMPLES = 2000
SEED = 0
HEAD = ["group", *GROUP]
SCORES = [
    "mean_score",
    "interquartile_mean",
    "interquartile_mean_low",
    "interquartile_mean_high",
    "mean_rank",
    "critical_difference",
    "borda_count",
    "win_rate",
]
OVERALL = [*HEAD, "tasks", "task_count", "rank", *ROW, "seeds", "trainable_parameters", *SCORES]


def overall(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per group, set of two tasks or more, and method; `rows` is what `rows_of` makes of `runs`.

    Scores in percent, best mean score first. `interquartile_mean` is over seeds and tasks, with its stratified
    bootstrap interval; it needs equally many seeds on every task, the interval two or more. Over these tasks methods
    differ where their mean ranks lie `critical_difference` apart (Nemenyi's test at 5 %).
    """
    scores = runs.groupby(KEY, observed=True)["score"].agg(list).rename("scores").reset_index()
    cells = rows.merge(scores, on=KEY, validate="one_to_one")
    cells["label"] = _labels(cells)
    groups = [of_group for _, of_group in cells.groupby(HEAD, observed=True)]
    tables = [_compared(of_group, tasks) for of_group in groups for tasks in _task_sets(of_group)]
    return pd.concat(tables, ignore_index=True)[OVERALL] if tables else pd.DataFrame(columns=OVERALL)


def _labels(cells: pd.DataFrame) -> pd.Series[str]:
    """The task of each row, with its data's revision where a group has several."""
    revisions = cells.groupby(["group", "task"], observed=True)["data_revision"].transform("nunique")
    tasks = cells["task"].astype(str)
    return tasks.where(revisions == 1, tasks + "@" + cells["data_revision"].astype(str))


def _task_sets(of_group: pd.DataFrame) -> list[list[str]]:
    """The sets of two tasks or more that some method has as its own, largest first."""
    own = of_group.groupby(ROW, observed=True)["label"].agg(frozenset)
    return sorted((sorted(tasks) for tasks in set(own) if len(tasks) > 1), key=lambda tasks: (-len(tasks), tasks))


def _compared(of_group: pd.DataFrame, tasks: list[str]) -> pd.DataFrame:
    """The comparison of all methods that have these tasks."""
    chosen = of_group[of_group["label"].isin(tasks)]
    wide = chosen.pivot(index=[*HEAD, *ROW], columns="label", values=["score_mean", "scores", "trainable_parameters"])
    wide = wide.dropna(subset=[("score_mean", task) for task in tasks])
    means = wide["score_mean"].to_numpy(dtype=float)
    scores = wide["scores"].to_numpy().tolist()
    several = len(means) > 1
    table = pd.DataFrame(
        {
            "tasks": " ".join(tasks),
            "task_count": len(tasks),
            "seeds": [min(map(len, of_method)) for of_method in scores],
            "trainable_parameters": wide["trainable_parameters"][tasks[0]].astype("Int64"),
            "mean_score": means.mean(axis=1),
            "mean_rank": mean_ranks(means),
            "critical_difference": critical_difference(len(means), len(tasks)) if several else None,
            "borda_count": borda_counts(means),
            "win_rate": win_rates(means) if several else None,
        },
        index=wide.index,
    )
    table[["interquartile_mean", "interquartile_mean_low", "interquartile_mean_high"]] = [
        _middle(of_method) for of_method in scores
    ]
    table["rank"] = table["mean_score"].rank(method="min", ascending=False).astype("Int64")
    return table.reset_index().sort_values(["rank", *ROW])


def _middle(scores: list[list[float]]) -> tuple[float | None, float | None, float | None]:
    """The interquartile mean of each task's scores over seeds, and its interval."""
    if len({len(of_task) for of_task in scores}) > 1:
        return None, None, None
    found = aggregates(np.array(scores).T, np.random.default_rng(SEED), RESAMPLES).interquartile_mean
    if found.interval is None:
        return found.value, None, None
    return found.value, found.interval.low, found.interval.high


def averages(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per group and method: each benchmark's own averages, where none of its tasks is missing.

    Seeds are averaged within a task first. Columns: `tasks/metrics/averages.py`, `tasks/metrics/vtab.py`.
    """
    key = [*HEAD, *ROW]
    found: list[dict[str, Any]] = []
    for values, of_method in rows.groupby(key, observed=True):
        if of_method["task"].is_unique:  # two revisions of a task's data have no common average
            scores, combined = (
                dict(zip(of_method["task"], of_method[column], strict=True))
                for column in ("score_mean", "combined_score_mean")
            )
            found.append(dict(zip(key, values, strict=True)) | _averages_of(scores, combined))
    table = pd.DataFrame(found)
    return table.dropna(subset=[name for name in table.columns if name not in key], how="all").reset_index(drop=True)


def _averages_of(scores: Mapping[str, float], combined: Mapping[str, float]) -> dict[str, float | None]:
    """The averages that the tasks of one method allow."""

    def of(benchmark: str, by_task: Mapping[str, float]) -> dict[str, float]:
        prefix = f"{benchmark}/"
        return {task.removeprefix(prefix): score for task, score in by_task.items() if task.startswith(prefix)}

    return {
        "glue_average": glue_average(of("glue", scores)),
        "glue_average_official": glue_average_official(of("glue", combined)),
        "superglue_average": superglue_average(of("superglue", scores)),
        **vtab.averages(of("vtab", scores)),
    }
