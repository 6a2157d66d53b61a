"""Rows of several tasks into one per method: averages, ranks and shares of tasks won, over equal sets of tasks only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.leaderboard.columns import ROW
from bench.leaderboard.rows import DECIMALS, as_records, shared, together
from bench.leaderboard.task_sets import HEAD, Member, TaskSet
from bench.stats.aggregates import estimate, interquartile_mean
from bench.stats.intervals import Estimate
from bench.stats.ranking import (
    borda_counts,
    critical_difference,
    friedman,
    mean_ranks,
    probability_of_improvement,
    win_rates,
)
from tasks.metrics import vtab
from tasks.metrics.averages import glue_average, glue_average_official, superglue_average

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 0
REFERENCE = "lora"
SCORES = [
    "mean_score",
    "interquartile_mean",
    "interquartile_mean_low",
    "interquartile_mean_high",
    "mean_rank",
    "friedman_p_value",
    "critical_difference",
    "borda_count",
    "win_rate",
    "probability_over_lora",
    "probability_over_lora_low",
    "probability_over_lora_high",
]
AVERAGES = [
    "glue_average",
    "glue_average_official",
    "superglue_average",
    *("vtab_mean_19", "vtab_mean_groups", "natural", "specialized", "structured"),
]
OVERALL = [
    *HEAD,
    "task_set",
    "tasks",
    "task_count",
    "rank",
    *ROW,
    "seeds",
    "lost_seeds",
    "trainable_parameters",
    *SCORES,
]


def overall(task_sets: Iterable[TaskSet]) -> pd.DataFrame:
    """One row per group, set of two tasks or more, and method.

    Scores in percent, best mean score first. `interquartile_mean` is over seeds and tasks, with its stratified
    bootstrap interval; it needs equally many seeds on every task, the interval two or more. Over these tasks methods
    differ where Friedman's test, in the form of Iman and Davenport, finds at 5 % that some do, and their mean ranks lie
    `critical_difference` apart (Nemenyi's test at 5 %). `probability_over_lora` is the probability that a run beats one
    of LoRA's, its best settings here, on a task drawn at random.
    """
    found = [
        dict(task_set.head) | _tasks(task_set) | row for task_set in task_sets for row in _compared(task_set.members)
    ]
    return pd.DataFrame(found, columns=OVERALL).astype({"trainable_parameters": "Int64"})


def _tasks(task_set: TaskSet) -> dict[str, Any]:
    tasks = task_set.tasks
    return {"task_set": task_set.name, "tasks": " ".join(tasks), "task_count": len(tasks)}


def _compared(members: Sequence[Member]) -> list[dict[str, Any]]:
    """One row per method, best first."""
    means = np.array([member.means for member in members])
    several = len(members) > 1
    mean, places, points = means.mean(axis=1).round(DECIMALS), mean_ranks(means), borda_counts(means)
    wins = win_rates(means) if several else [None]
    difference = critical_difference(*means.shape) if several else None
    p_value = friedman(means).f_p_value if several else None
    references = [index for index, member in enumerate(members) if member.method == REFERENCE]
    reference = max(references, key=lambda index: float(mean[index]), default=None)
    found = [
        {
            "rank": 1 + int(np.sum(mean > mean[index])),
            "method": member.method,
            "settings_id": member.settings_id,
            "seeds": member.seeds,
            "lost_seeds": member.lost_seeds,
            "trainable_parameters": member.trainable_parameters,
            "mean_score": mean[index],
            **_middle(member.runs),
            "mean_rank": places[index],
            "friedman_p_value": p_value,
            "critical_difference": difference,
            "borda_count": points[index],
            "win_rate": wins[index],
            **({} if reference in (None, index) else _improvement(member.runs, members[reference].runs)),
        }
        for index, member in enumerate(members)
    ]
    return sorted(found, key=lambda row: (row["rank"], row["method"], row["settings_id"]))


def _middle(runs: NDArray[np.float64] | None) -> dict[str, float]:
    """The interquartile mean over seeds and tasks, and its interval, as far as they are known."""
    if runs is None:
        return {}
    found = estimate(runs, interquartile_mean, SEED, RESAMPLES)
    return _with_interval("interquartile_mean", found)


def _improvement(runs: NDArray[np.float64] | None, reference: NDArray[np.float64] | None) -> dict[str, float]:
    """How likely a run beats one of the reference on a task drawn at random, likewise."""
    if runs is None or reference is None:
        return {}
    found = probability_of_improvement(runs, reference, np.random.default_rng(SEED), RESAMPLES)
    return _with_interval("probability_over_lora", found)


def _with_interval(name: str, estimate: Estimate) -> dict[str, float]:
    if estimate.interval is None:
        return {name: estimate.value}
    return {name: estimate.value, f"{name}_low": estimate.interval.low, f"{name}_high": estimate.interval.high}


def averages(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per group and method: each benchmark's own averages, where none of its tasks is missing or there twice.

    Two revisions of a task's data, or two settings of a task, have no common average. Seeds are averaged within a task
    first. Columns: `tasks/metrics/averages.py`, `tasks/metrics/vtab.py`.
    """
    key = [*HEAD, *ROW]
    records = as_records(rows[["task", "score_mean", "combined_score_mean"]])
    methods = together(rows, ["group", *ROW])
    found: list[dict[str, Any]] = []
    for members, head in zip(methods, shared(rows, methods, key), strict=True):
        found.append(head | _averages_of([records[position] for position in members]))
    table = pd.DataFrame(found, columns=[*key, *AVERAGES])
    return table.dropna(subset=AVERAGES, how="all").reset_index(drop=True)


def _averages_of(cells: Sequence[Mapping[Any, Any]]) -> dict[str, float | None]:
    """The averages that the tasks of one method allow."""
    times = Counter(cell["task"] for cell in cells)
    doubtful = {task.partition("/")[0] for task, count in times.items() if count > 1}

    def of(benchmark: str, column: str = "score_mean") -> dict[str, float]:
        if benchmark in doubtful:
            return {}
        prefix = f"{benchmark}/"
        return {cell["task"].removeprefix(prefix): cell[column] for cell in cells if cell["task"].startswith(prefix)}

    return {
        "glue_average": glue_average(of("glue")),
        "glue_average_official": glue_average_official(of("glue", "combined_score_mean")),
        "superglue_average": superglue_average(of("superglue")),
        **vtab.averages(of("vtab")),
    }
