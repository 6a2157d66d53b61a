"""Score against cost: the rows that no other of their group betters in both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.leaderboard.comparisons import TOGETHER
from bench.leaderboard.statistics.trade_offs import cheapest_within_one_standard_error, pareto_front

COSTS = (
    "trainable_parameters",
    "peak_memory_bytes",
    "train_seconds",
    "train_energy_joules",
    "inference_latency_seconds_median",
)
PARETO = [
    *TOGETHER,
    "cost",
    "method",
    "settings_id",
    "value",
    "score_mean",
    "standard_error",
    "on_front",
    "cheapest_within_one_standard_error",
]


def pareto(rows: pd.DataFrame) -> pd.DataFrame:
    """The front of each task, group and cost, cheapest first, and the cheapest within one standard error of the best.

    `standard_error`, in points, is the larger one of that over seeds and that over examples, of those that are known.
    """
    errors = _standard_errors(rows)
    tables = [
        _front(members, cost)
        for _, members in rows.assign(standard_error=errors).groupby(TOGETHER, sort=True)
        for cost in COSTS
        if members[cost].notna().any()
    ]
    return pd.concat(tables, ignore_index=True)[PARETO] if tables else pd.DataFrame(columns=PARETO)


def _standard_errors(rows: pd.DataFrame) -> pd.Series[float]:
    over_seeds = rows["score_std"] / np.sqrt(rows["seeds"])
    over_examples = rows["standard_error_over_examples"].astype(float)
    return pd.concat([over_seeds, over_examples], axis=1).max(axis=1)


def _front(members: pd.DataFrame, cost: str) -> pd.DataFrame:
    costs = members[cost].to_numpy(dtype=float, na_value=np.nan)
    scores, errors = members["score_mean"].to_numpy(), members["standard_error"].to_numpy()
    cheapest = cheapest_within_one_standard_error(costs, scores, errors)
    chosen: Any = np.arange(len(members)) == (-1 if cheapest is None else cheapest)
    table = members[[*TOGETHER, "method", "settings_id", "score_mean", "standard_error"]].assign(
        cost=cost, value=costs, on_front=pareto_front(costs, scores), cheapest_within_one_standard_error=chosen
    )
    return table[table["on_front"] | chosen].sort_values(["value", "method"])
