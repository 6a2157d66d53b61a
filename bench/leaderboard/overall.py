"""Rows of several tasks into one per method: averages, ranks and shares of tasks won, over equal sets of tasks only.

A method enters the comparison over a set of tasks if it has every one of them; each set that some method has as its
own is a comparison of its own, so that nothing is averaged over what another method lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.leaderboard.columns import GROUP, KEY, ROW
from bench.leaderboard.rows import together
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
Method = tuple[str, str]
"""Name and settings id."""
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
    records = cells[[*HEAD, *ROW, "label", "score_mean", "scores", "trainable_parameters"]].to_dict("records")
    found: list[dict[str, Any]] = []
    for members in together(cells, ["group"]):
        of_group = [records[position] for position in members]
        by_method: dict[Method, dict[str, Mapping[Any, Any]]] = {}
        for cell in of_group:
            by_method.setdefault((cell["method"], cell["settings_id"]), {})[cell["label"]] = cell
        head = {name: of_group[0][name] for name in HEAD}
        for tasks in _task_sets(by_method.values()):
            compared = {method: of for method, of in by_method.items() if of.keys() >= set(tasks)}
            found += [head | row for row in _compared(compared, tasks)]
    return pd.DataFrame(found, columns=OVERALL).astype({"trainable_parameters": "Int64"})


def _labels(cells: pd.DataFrame) -> pd.Series[str]:
    """The task of each row, with its data's revision where a group has several."""
    revisions = cells.groupby(["group", "task"], observed=True)["data_revision"].transform("nunique")
    tasks = cells["task"].astype(str)
    return tasks.where(revisions == 1, tasks + "@" + cells["data_revision"].astype(str))


def _task_sets(methods: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The sets of two tasks or more that some method has as its own, largest first."""
    own = {frozenset(of_method) for of_method in methods}
    return sorted((sorted(tasks) for tasks in own if len(tasks) > 1), key=lambda tasks: (-len(tasks), tasks))


def _compared(methods: Mapping[Method, Mapping[str, Mapping[Any, Any]]], tasks: list[str]) -> list[dict[str, Any]]:
    """The comparison of methods that all have these tasks, best first."""
    cells = [[of_method[task] for task in tasks] for of_method in methods.values()]
    means = np.array([[cell["score_mean"] for cell in of_method] for of_method in cells])
    several = len(methods) > 1
    mean, places, points = means.mean(axis=1), mean_ranks(means), borda_counts(means)
    wins = win_rates(means) if several else [None]
    difference = critical_difference(len(methods), len(tasks)) if several else None
    found = [
        {
            "tasks": " ".join(tasks),
            "task_count": len(tasks),
            "rank": 1 + int(np.sum(mean > mean[index])),
            **dict(zip(ROW, method, strict=True)),
            "seeds": min(len(cell["scores"]) for cell in cells[index]),
            "trainable_parameters": cells[index][0]["trainable_parameters"],
            "mean_score": mean[index],
            **_middle([cell["scores"] for cell in cells[index]]),
            "mean_rank": places[index],
            "critical_difference": difference,
            "borda_count": points[index],
            "win_rate": wins[index],
        }
        for index, method in enumerate(methods)
    ]
    return sorted(found, key=lambda row: (row["rank"], row["method"], row["settings_id"]))


def _middle(scores: list[list[float]]) -> dict[str, float]:
    """The interquartile mean of each task's scores over seeds, and its interval, as far as they are known."""
    if len({len(of_task) for of_task in scores}) > 1:
        return {}
    found = aggregates(np.array(scores).T, np.random.default_rng(SEED), RESAMPLES).interquartile_mean
    known = {"interquartile_mean": found.value}
    if found.interval is not None:
        known |= {"interquartile_mean_low": found.interval.low, "interquartile_mean_high": found.interval.high}
    return known


def averages(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per group and method: each benchmark's own averages, where none of its tasks is missing.

    Seeds are averaged within a task first. Columns: `tasks/metrics/averages.py`, `tasks/metrics/vtab.py`.
    """
    key = [*HEAD, *ROW]
    records = rows[[*key, "task", "score_mean", "combined_score_mean"]].to_dict("records")
    found: list[dict[str, Any]] = []
    for members in together(rows, key):
        cells = [records[position] for position in members]
        if len({cell["task"] for cell in cells}) == len(cells):  # two revisions of a task have no common average
            scores, combined = (
                {cell["task"]: cell[column] for cell in cells} for column in ("score_mean", "combined_score_mean")
            )
            found.append({name: cells[0][name] for name in key} | _averages_of(scores, combined))
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
