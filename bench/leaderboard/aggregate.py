"""Complete records into rows: one row per method settings, model, budget, data source and task, over its seeds.

Runs that differ in budget, data source, subset, precision or device are never put into one row, and short or sample
runs stand on boards of their own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.leaderboard.columns import AVERAGED, COLUMNS, KEY, board_values
from tasks.metrics import vtab
from tasks.metrics.averages import glue_average, glue_average_official, superglue_average

if TYPE_CHECKING:
    from pandas.core.groupby import DataFrameGroupBy

    from bench.record import RunRecord

REAL_DATA = ("hub", "mirror")
FULL = ("full", "vtab_final")


@dataclass(frozen=True)
class Board:
    """Which rows may stand side by side; `folder` is empty for the board of full runs on real data."""

    folder: str

    @classmethod
    def of(cls, budget: str, data_source: str) -> Board:
        """The board of a run."""
        parts = [] if data_source in REAL_DATA else [data_source]
        return cls("-".join(parts if budget in FULL and not parts else [*parts, budget]))


def frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Complete records but those of trials, one row each, with the columns that the boards use."""
    counted = [record for record in records if record.status == "complete" and not record.held_out]
    return pd.DataFrame([board_values(record) for record in counted], columns=COLUMNS)


def by_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean, sample standard deviation and number of seeds per row of a board, best first within a task and model."""
    groups = runs.sort_values("seed", kind="stable").groupby(KEY, sort=True)
    table = groups.agg(
        metric=("metric", "first"),
        combined_score_mean=("combined_score", "mean"),
        score_mean=("score", "mean"),
        score_std=("score", "std"),
        seeds=("seed", "nunique"),
        **{f"{name}_mean" if name not in _EXACT else name: (name, "mean") for name in AVERAGED},
    ).reset_index()
    table.insert(list(table.columns).index("seeds") + 1, "seed_list", _seed_lists(groups, len(table)))
    for name in _EXACT & set(table.columns):
        table[name] = table[name].round().astype("Int64")
    order = ["task", "model", "score_mean", "method", "settings_id"]
    return table.sort_values(order, ascending=[True, True, False, True, True], ignore_index=True)


_EXACT = {"trainable_parameters", "head_parameters", "inference_parameters"}
"""Shown as whole numbers, also where they differ from seed to seed."""


def _seed_lists(groups: DataFrameGroupBy[Any, Any], count: int) -> list[str]:
    """The distinct seeds of each group, ascending. One pass over the runs: a function per group takes seconds."""
    seeds: dict[int, set[int]] = defaultdict(set)
    for group, seed in zip(groups.ngroup().tolist(), groups.obj["seed"].tolist(), strict=True):
        seeds[group].add(seed)
    return [" ".join(map(str, sorted(seeds[group]))) for group in range(count)]


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method settings and model: each benchmark's own averages, where none of its tasks is missing.

    Seeds are averaged within a task first. Columns: `tasks/metrics/averages.py`, `tasks/metrics/vtab.py`.
    """
    key = [name for name in KEY if name != "task"]
    scores, combined = (_by_task(table, key, column) for column in ("score_mean", "combined_score_mean"))
    rows = [dict(zip(key, values, strict=True)) | _averages_of(scores[values], combined[values]) for values in scores]
    found = pd.DataFrame(rows)
    return found.dropna(subset=[name for name in found.columns if name not in key], how="all").reset_index(drop=True)


def _by_task(table: pd.DataFrame, key: list[str], column: str) -> dict[tuple[str, ...], dict[str, float]]:
    """A column's values by task for each `key`, without the tasks that it lacks."""
    wide = table.pivot(index=key, columns="task", values=column)
    rows = zip(wide.index, wide.to_numpy(dtype=float), strict=True)
    return {
        values: {task: score for task, score in zip(wide.columns, row.tolist(), strict=True) if not math.isnan(score)}
        for values, row in rows
    }


def _averages_of(scores: Mapping[str, float], combined: Mapping[str, float]) -> dict[str, float | None]:
    """The averages that the tasks of one row allow."""

    def of(benchmark: str, by_task: Mapping[str, float]) -> dict[str, float]:
        prefix = f"{benchmark}/"
        return {task.removeprefix(prefix): score for task, score in by_task.items() if task.startswith(prefix)}

    return {
        "glue_average": glue_average(of("glue", scores)),
        "glue_average_official": glue_average_official(of("glue", combined)),
        "superglue_average": superglue_average(of("superglue", scores)),
        **vtab.averages(of("vtab", scores)),
    }


def overall(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method settings and model: the mean score of each task, and their mean where no task is missing."""
    key = [name for name in KEY if name != "task"]
    wide = table.pivot(index=key, columns="task", values="score_mean")
    tasks = list(wide.columns)
    wide.insert(0, "mean_score", wide[tasks].mean(axis=1, skipna=False))
    wide.insert(1, "tasks", wide[tasks].notna().sum(axis=1))
    parameters = table.groupby(key)["trainable_parameters"].first()
    wide.insert(2, "trainable_parameters", parameters)
    return wide.reset_index().sort_values(
        ["tasks", "mean_score", "method"], ascending=[False, False, True], ignore_index=True
    )
