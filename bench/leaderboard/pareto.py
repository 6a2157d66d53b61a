"""Score against cost: the rows that no other of their group betters in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.leaderboard.columns import COSTS
from bench.leaderboard.comparisons import TOGETHER
from bench.leaderboard.rows import together
from bench.stats.trade_offs import cheapest_within_one_standard_error, pareto_front

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_NOISE = 0.1
"""Relative standard deviation of a cost over seeds up to which there is a front; a shared machine's times have more."""
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
    A cost of more than `MOST_NOISE` has neither.
    """
    scores, errors = (np.asarray(column, np.float64) for column in (rows["score_mean"], _standard_errors(rows)))
    costs = np.array([rows[cost].to_numpy(dtype=float, na_value=np.nan) for cost in COSTS])
    groups = together(rows, TOGETHER)
    noises = [noise(rows.iloc[members]) for members in groups]
    of_groups = [
        (members, cost)
        for members, of_costs in zip(groups, noises, strict=True)
        for cost, name in enumerate(COSTS)
        if not of_costs[name] > MOST_NOISE
    ]
    if not of_groups:
        return pd.DataFrame(columns=PARETO)
    fronts = [_front(costs[cost], scores, errors, members) for members, cost in of_groups]
    positions, on_front, cheapest = (np.concatenate(part) for part in zip(*fronts, strict=True))
    cost = np.repeat([cost for _, cost in of_groups], [len(front) for front, _, _ in fronts])
    table = rows[[*TOGETHER, "method", "settings_id", "score_mean"]].iloc[positions]
    found = table.assign(
        cost=np.array(COSTS)[cost],
        value=costs[cost, positions],
        standard_error=errors[positions],
        on_front=on_front,
        cheapest_within_one_standard_error=cheapest,
    )
    return found[PARETO].sort_values([*TOGETHER, "cost"], kind="stable", ignore_index=True)


def noise(rows: pd.DataFrame) -> dict[str, float]:
    """Of each cost the relative standard deviation over the seeds of one row, pooled; NaN where no row tells.

    It is what the machine and the order of the examples do to a cost, whatever the method.
    """
    found = {}
    for cost in COSTS:
        mean, deviation = (rows[name].to_numpy(dtype=float, na_value=np.nan) for name in (cost, f"{cost}_std"))
        known = (mean > 0) & ~np.isnan(deviation)
        found[cost] = float(np.sqrt(np.mean((deviation[known] / mean[known]) ** 2))) if known.any() else np.nan
    return found


def _standard_errors(rows: pd.DataFrame) -> pd.Series[float]:
    over_seeds = rows["score_std"] / np.sqrt(rows["seeds"])
    over_examples = rows["standard_error_over_examples"].astype(float)
    return pd.concat([over_seeds, over_examples], axis=1).max(axis=1)


def _front(
    costs: NDArray[np.float64], scores: NDArray[np.float64], errors: NDArray[np.float64], members: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Of the rows at `members` those that count, cheapest first; which are on the front, and which is the cheapest."""
    on_front = pareto_front(costs[members], scores[members])
    cheapest = cheapest_within_one_standard_error(costs[members], scores[members], errors[members])
    is_cheapest = np.arange(len(members)) == (-1 if cheapest is None else cheapest)
    counted = np.flatnonzero(on_front | is_cheapest)
    counted = counted[np.argsort(costs[members[counted]], kind="stable")]
    return members[counted], on_front[counted], is_cheapest[counted]
