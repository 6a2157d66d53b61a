"""Whether two methods differ on the same examples, and which methods cannot be told from the best.

The example is the independent unit. Where methods ran with several seeds, an example's values are averaged over them
and it is resampled, or its sign flipped, with all its seeds. The tests therefore speak about these trained runs on new
examples; how far new seeds would move a method is `intervals.summary`, and with one seed a significant difference may
be luck of the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from bench.leaderboard.statistics.arrays import numbers, proportion
from bench.leaderboard.statistics.intervals import Interval, percentile_interval
from bench.leaderboard.statistics.resampling import resampled_means

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-12
"""Differences up to here are rounding and count as none."""


@dataclass(frozen=True)
class McNemar:
    """How many examples speak for either method, and how likely a split as uneven or more is by chance."""

    for_a: int
    """Examples that a gets right with more seeds than b."""
    for_b: int
    difference: float
    """Accuracy of a less accuracy of b, a fraction."""
    p_value: float


@dataclass(frozen=True)
class PairedDifference:
    """A statistic of a less that of b, in its unit, with its bootstrap interval and two-sided p-value."""

    difference: float
    interval: Interval
    p_value: float


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Exact two-sided test of equal accuracy; both arrays hold 0 and 1, shape (examples,) or (seeds, examples).

    With one seed it is McNemar's test (1947) in its exact form: under the hypothesis each discordant pair falls to
    either side with probability 1/2. With several seeds it is the exact sign-flip test (Fisher 1935) on an example's
    difference in right answers summed over the seeds, of which McNemar's is the case of one seed; pooling the seeds'
    discordant pairs instead would count an example several times. p = 1 without discordant pairs. Raises ValueError
    for no examples, unequal shapes, and values other than 0 and 1.
    """
    a, b = _pair(correct_a, correct_b, 1, 2)
    if not np.isin([a, b], (0, 1)).all():
        raise ValueError("right and wrong are 1 and 0: other values were given")
    differences = np.sum(np.atleast_2d(a) - np.atleast_2d(b), axis=0).astype(np.int64)
    return McNemar(
        for_a=int(np.sum(differences > 0)),
        for_b=int(np.sum(differences < 0)),
        difference=float(a.mean() - b.mean()),
        p_value=_sign_flip_p_value(differences),
    )


def _sign_flip_p_value(differences: NDArray[np.int64]) -> float:
    """The exact two-sided p-value of integers whose signs are fair coins: twice the smaller tail, at most 1.

    The sum of the positive ones is a sum over sizes s of s · Binomial(number of that size, 1/2), symmetric about half
    of the total.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    distribution = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, spread)
    smaller = min(int(differences[differences > 0].sum()), -int(differences[differences < 0].sum()))
    return min(1.0, 2 * float(distribution[: smaller + 1].sum()))


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    labels: ArrayLike,
    statistic: Callable[[NDArray[Any], NDArray[Any]], float | None],
    generator: np.random.Generator,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> PairedDifference:
    """Difference in any `statistic` of (predictions, labels), both of shape (examples,), averaged over seeds.

    `a` and `b` hold predictions, shape (examples,) or (seeds, examples), `labels` has shape (examples,). A resample
    draws examples with replacement, the same for both methods and all seeds (Koehn 2004; Efron and Tibshirani 1993,
    section 13.3). p is twice the smaller share of resamples on either side of 0, each with 1 added above and below
    (Davison and Hinkley 1997, section 4.2), so it is never under 2 / (resamples + 1): keep that below the level
    divided by the number of comparisons. A resample on which the statistic is undefined (None or NaN) counts against
    significance and is left out of the interval. Raises ValueError for no examples, unequal shapes, and a statistic
    that is undefined on the whole data.
    """
    first, second, gold = np.atleast_2d(a), np.atleast_2d(b), np.asarray(labels)
    if first.shape != second.shape or gold.shape != first.shape[1:]:
        raise ValueError(f"a has shape {first.shape}, b {second.shape} and labels {gold.shape}: they do not pair up")
    if first.size == 0:
        raise ValueError("there are no examples: there is nothing to compare")
    examples = len(gold)

    def difference(chosen: NDArray[np.int64]) -> float:
        found = [[statistic(run[chosen], gold[chosen]) for run in method] for method in (first, second)]
        means = np.array(found, dtype=np.float64).mean(axis=1)
        return float(means[0] - means[1])

    replicates = [difference(generator.integers(examples, size=examples)) for _ in range(resamples)]
    return _paired_difference(difference(np.arange(examples)), np.array(replicates), confidence)


def paired_mean_bootstrap(
    a: ArrayLike, b: ArrayLike, generator: np.random.Generator, resamples: int = 10_000, confidence: float = 0.95
) -> PairedDifference:
    """`paired_bootstrap` of a mean of per-example values, shape (examples,) or (seeds, examples).

    Fast: 10,000 resamples take about 1.3 seconds per 1,000 distinct differences, however many examples have them.
    Raises ValueError for no examples, unequal shapes and missing values.
    """
    first, second = _pair(a, b, 1, 2)
    differences = np.atleast_2d(first - second).mean(axis=0)
    replicates = resampled_means(differences[:, None], resamples, generator)[:, 0]
    return _paired_difference(float(differences.mean()), replicates, confidence)


def paired_bootstrap_of_means(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    generator: np.random.Generator,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> PairedDifference:
    """`paired_bootstrap` of a statistic that follows from means of per-example columns, such as F1, MCC or Pearson's r.

    `a` and `b` have shape (seeds, examples, columns); `statistic` takes means of shape (..., columns) to values of
    shape (...). F1, for one, is 2 t / (2 t + f + m) from the shares t of true positives, f of false positives and m of
    false negatives. Raises ValueError as `paired_bootstrap` does.
    """
    methods = np.stack(_pair(a, b, 3))
    _, seeds, examples, columns = methods.shape

    def differences(means: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = statistic(means.reshape(-1, 2, seeds, columns)).mean(axis=-1)
        return np.asarray(values[:, 0] - values[:, 1])

    table = methods.transpose(2, 0, 1, 3).reshape(examples, -1)
    replicates = differences(resampled_means(table, resamples, generator))
    return _paired_difference(float(differences(table.mean(axis=0))[0]), replicates, confidence)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values, shape (tests,), in the order of the input; reject where at most the level.

    The i-th smallest p-value times (tests - i + 1), at least the adjusted value before it, at most 1 (Holm 1979).
    Holds the probability of any false rejection below the level under any dependence between the tests. Raises
    ValueError for no p-values and for values outside [0, 1].
    """
    p = numbers(p_values, "p-values", 1)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"p-values lie between 0 and 1: found {p.min()} to {p.max()}")
    ascending = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[ascending] = np.maximum.accumulate(p[ascending] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return adjusted


def not_separable_from_best(
    scores: ArrayLike, p_value: Callable[[int, int], float], level: float = 0.05
) -> NDArray[np.bool_]:
    """Which methods are not significantly worse than the one with the highest score, that one included.

    `scores` and the result have shape (methods,); `p_value` gives the two-sided p-value of a paired test between the
    methods of two indices, the best first. The tests against the best are corrected by `holm`. The best is chosen and
    tested on the same data, which makes the group too small: of ten equal methods one or more is left out in about
    15 % of cases at level 0.05. `level = 2 · 0.05 / methods` corrects for every pair that the choice could have led to
    and keeps the promised 5 %. Raises ValueError for no methods and missing scores.
    """
    values = numbers(scores, "scores", 1)
    best = int(values.argmax())
    others = np.flatnonzero(np.arange(len(values)) != best)
    together = np.ones(len(values), dtype=np.bool_)
    if len(others):
        together[others] = holm([p_value(best, int(other)) for other in others]) > proportion(level, "level")
    return together


def _pair(a: ArrayLike, b: ArrayLike, *dimensions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values of two methods on the same seeds and examples."""
    first, second = numbers(a, "values of a", *dimensions), numbers(b, "values of b", *dimensions)
    if first.shape != second.shape:
        raise ValueError(f"a has shape {first.shape} and b {second.shape}: they must share seeds and examples")
    return first, second


def _paired_difference(difference: float, replicates: NDArray[np.float64], confidence: float) -> PairedDifference:
    if not np.isfinite(difference):
        raise ValueError("the statistic is undefined on the whole data, as a correlation of constant predictions is")
    not_above, not_below = np.sum(~(replicates > ROUNDING)), np.sum(~(replicates < -ROUNDING))
    p_value = 2 * (1 + int(min(not_above, not_below))) / (len(replicates) + 1)
    return PairedDifference(difference, percentile_interval(replicates, confidence), min(1.0, p_value))
