"""Comparing methods over many tasks by rank and by runs won.

Scores have shape (methods, tasks), higher is better, one number per method and task. Every method needs every task:
averages over different sets of tasks are never compared, so a missing score raises ValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bench.stats.arrays import numbers, proportion
from bench.stats.intervals import Estimate, percentile_interval
from bench.stats.resampling import pieces, stratified

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Friedman:
    """Whether methods differ at all over the tasks: Friedman's chi-square and the less conservative F of it."""

    chi_square: float
    chi_square_p_value: float
    f: float
    f_p_value: float


def ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """Rank of each method within each task, shape (methods, tasks): 1 is best, equal scores share their mean rank.

    Raises ValueError for missing scores.
    """
    table = np.asarray(scores, dtype=np.float64)
    missing = int(np.isnan(table).sum())
    if missing:
        raise ValueError(
            f"{missing} of the {table.size} scores are missing, and averages over different sets of tasks are not "
            "compared: leave out the methods or the tasks that are incomplete"
        )
    return np.asarray(stats.rankdata(-numbers(table, "scores", 2), axis=0))


def mean_ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """Mean rank of each method over the tasks, shape (methods,), 1 is best (Demšar 2006, section 3.2.2)."""
    return np.asarray(ranks(scores).mean(axis=1))


def borda_counts(scores: ArrayLike) -> NDArray[np.float64]:
    """Points of each method, shape (methods,): one for each method it beats on each task, half for a tie."""
    places = ranks(scores)
    return np.asarray((len(places) - places).sum(axis=1))


def win_rates(scores: ArrayLike) -> NDArray[np.float64]:
    """Share of (task, other method) pairs that each method wins, ties half, shape (methods,), in [0, 1].

    Raises ValueError for fewer than two methods.
    """
    methods, tasks = _compared(ranks(scores))
    return borda_counts(scores) / (tasks * (methods - 1))


def friedman(scores: ArrayLike) -> Friedman:
    """Friedman's test that all methods rank equally, with the correction of Iman and Davenport.

    chi² = 12 N / (k (k + 1)) · (Σ R² - k (k + 1)² / 4) for k methods with mean ranks R on N tasks, k - 1 degrees of
    freedom; F = (N - 1) chi² / (N (k - 1) - chi²), k - 1 and (k - 1)(N - 1) degrees (Demšar 2006, section 3.2.2). Ties
    are not corrected for, as there, which makes both conservative; chi² needs N > 10 and k > 5 to be accurate. No
    p-value of F is below k!^-(N - 1), the probability that all tasks rank equal methods alike by chance. Raises
    ValueError for fewer than two methods or two tasks.
    """
    places = ranks(scores)
    methods, tasks = _compared(places)
    if tasks < 2:
        raise ValueError("Friedman's test needs two tasks or more")
    squares = float(np.sum(places.mean(axis=1) ** 2))
    chi_square = 12 * tasks / (methods * (methods + 1)) * (squares - methods * (methods + 1) ** 2 / 4)
    chi_square, left = max(0.0, chi_square), tasks * (methods - 1) - chi_square
    f = (tasks - 1) * chi_square / left if left > 1e-9 else math.inf
    all_alike = math.exp(-(tasks - 1) * math.lgamma(methods + 1))
    return Friedman(
        chi_square=chi_square,
        chi_square_p_value=float(stats.chi2.sf(chi_square, methods - 1)),
        f=f,
        f_p_value=max(float(stats.f.sf(f, methods - 1, (methods - 1) * (tasks - 1))), all_alike),
    )


def critical_difference(methods: int, tasks: int, level: float = 0.05) -> float:
    """Difference in mean ranks from which two methods differ, by Nemenyi's test over all pairs.

    CD = q √(k (k + 1) / (6 N)) for k methods on N tasks, with q the studentised range's quantile for infinite degrees
    of freedom over √2 (Demšar 2006, section 3.2.2 and table 5). It counts where `friedman` rejects; it grows with every
    method on the diagram, so the choice of methods must not depend on the result. Raises ValueError for fewer than two
    methods or no task.
    """
    if methods < 2 or tasks < 1:
        raise ValueError(f"{methods} methods on {tasks} tasks: two methods and one task are the least")
    q = float(stats.studentized_range.isf(proportion(level, "level"), methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))


def probability_of_improvement(
    x: ArrayLike, y: ArrayLike, generator: np.random.Generator, resamples: int = 2_000, confidence: float = 0.95
) -> Estimate:
    """Probability that a run of method x beats a run of y on a task drawn at random, with its bootstrap interval.

    `x` and `y` hold scores of shape (seeds, tasks), over the same tasks; the numbers of seeds may differ. On each task
    it is the Mann-Whitney statistic over the product of the seeds, ties half; tasks count equally (Agarwal et al. 2021,
    arXiv:2108.13264, section 4.3 and equation A.2). It says how often x wins, not by how much. The interval resamples
    seeds within tasks: it is too narrow for few seeds and None where a method has one. Raises ValueError for missing
    scores and unequal tasks.
    """
    first, second = numbers(x, "scores of x", 2), numbers(y, "scores of y", 2)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"x has {first.shape[1]} tasks and y {second.shape[1]}: they must be the same tasks")
    value = float(_won(first, second))
    if min(len(first), len(second)) < 2:
        return Estimate(value, None)
    sizes = pieces(resamples, first.size * len(second))
    drawn = [_won(stratified(first, size, generator), stratified(second, size, generator)) for size in sizes]
    return Estimate(value, percentile_interval(np.concatenate(drawn), confidence))


def _won(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of pairs of runs that x wins; both have shape (..., seeds, tasks), the result (...)."""
    difference = x[..., :, None, :] - y[..., None, :, :]
    return np.asarray((np.sign(difference).mean(axis=(-3, -2, -1)) + 1) / 2)


def _compared(table: NDArray[np.float64]) -> tuple[int, int]:
    """The numbers of methods and tasks of a comparison, which takes two methods."""
    methods, tasks = table.shape
    if methods < 2:
        raise ValueError("a comparison needs two methods or more")
    return methods, tasks
