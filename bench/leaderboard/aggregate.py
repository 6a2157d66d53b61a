"""Complete records into rows: one row per method settings, model, budget, data source and task, over its seeds.

Runs that differ in budget, data source, subset, precision or device are never put into one row, and short or sample
runs stand on boards of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from tasks.metrics import vtab
from tasks.metrics.averages import glue_average, glue_average_official, superglue_average

if TYPE_CHECKING:
    from bench.record import RunRecord

KEY = ["task", "model", "method", "settings_id", "budget", "data_source", "data_subset", "precision", "device"]
AVERAGED = [
    "trainable_parameters",
    "trainable_percent",
    "head_parameters",
    "inference_parameters",
    "stored_bytes",
    "peak_memory_bytes",
    "train_samples_per_second",
    "train_tokens_per_second",
    "train_seconds",
]
REAL_DATA = ("hub", "mirror")
FULL = ("full", "vtab_final")
WHOLE = "whole"
"""In place of a subset where the benchmark prescribes none."""


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
    """Complete records, one row each, with the columns that the boards use.

    `data_subset` loses the hash of its rows, which differs from task to task. `combined_score` is the mean of a task's
    metrics where its benchmark averages several, else the score.
    """
    columns = [*KEY, "seed", "metric", "score", *AVERAGED]
    complete = [record for record in records if record.status == "complete"]
    table = pd.DataFrame([{name: getattr(record, name) for name in columns} for record in complete], columns=columns)
    table["data_subset"] = [(record.data_subset or WHOLE).split()[0] for record in complete]
    table["combined_score"] = [_combined(record) for record in complete]
    return table


def _combined(record: RunRecord) -> float | None:
    mean = record.metrics.get("combined_score")
    return record.score if mean is None else 100 * mean


def by_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean, sample standard deviation and number of seeds per row of a board, best first within a task and model."""
    groups = runs.sort_values("seed").groupby(KEY, sort=True)
    table = groups.agg(
        metric=("metric", "first"),
        combined_score_mean=("combined_score", "mean"),
        score_mean=("score", "mean"),
        score_std=("score", "std"),
        seeds=("seed", "nunique"),
        seed_list=("seed", lambda seeds: " ".join(str(seed) for seed in sorted(set(seeds)))),
        **{f"{name}_mean" if name not in _EXACT else name: (name, "mean") for name in AVERAGED},
    ).reset_index()
    for name in _EXACT & set(table.columns):
        table[name] = table[name].astype("Int64")
    order = ["task", "model", "score_mean", "method", "settings_id"]
    return table.sort_values(order, ascending=[True, True, False, True, True], ignore_index=True)


_EXACT = {"trainable_parameters", "head_parameters", "inference_parameters"}


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method settings and model: each benchmark's own averages, where none of its tasks is missing.

    Seeds are averaged within a task first. Columns: `tasks/metrics/averages.py`, `tasks/metrics/vtab.py`.
    """
    key = [name for name in KEY if name != "task"]
    rows = [
        dict(zip(key, values, strict=True)) | _averages_of(group) for values, group in table.groupby(key, sort=True)
    ]
    found = pd.DataFrame(rows)
    return found.dropna(subset=[name for name in found.columns if name not in key], how="all").reset_index(drop=True)


def _averages_of(group: pd.DataFrame) -> dict[str, float | None]:
    """The averages that the tasks of one row allow."""

    def scores(benchmark: str, column: str = "score_mean") -> dict[str, float]:
        found = group[group["task"].str.startswith(f"{benchmark}/")]
        return dict(zip(found["task"].str.removeprefix(f"{benchmark}/"), found[column], strict=True))

    return {
        "glue_average": glue_average(scores("glue")),
        "glue_average_official": glue_average_official(scores("glue", "combined_score_mean")),
        "superglue_average": superglue_average(scores("superglue")),
        **vtab.averages(scores("vtab")),
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
