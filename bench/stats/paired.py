"""Whether two methods differ on the same examples.

The example is the independent unit. Where methods ran with several seeds, an example's values are averaged over them
and it is resampled, or its sign flipped, with all its seeds. The tests therefore speak about these trained models on
new examples, not about methods retrained with new seeds: how far those would move a method is the interval over seeds
(`rows.py`), and with one seed a significant difference may be luck of the seed.

A bootstrap draws examples with replacement, the same for both methods and all seeds (Koehn 2004; Efron and Tibshirani
1993, section 13.3). Its p-value is twice the smaller share of resamples on either side of 0, each with 1 added above
and below (Davison and Hinkley 1997, section 4.2), which is never under 2 / (resamples + 1). Where fewer than `FEW`
resamples lie on that side, the share is too coarse to be corrected for many comparisons, and the normal approximation
takes its place: difference / standard deviation of the resampled differences as a standard normal number, two-sided
(Efron and Tibshirani 1993, sections 6.2 and 13.2). A resample on which the statistic is undefined (NaN) counts against
significance and is left out of the interval and of the standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bench.stats.arrays import numbers, proportion
from bench.stats.intervals import Interval, percentile_interval
from bench.stats.resampling import resampled_means

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-12
"""Differences up to here are rounding and count as none."""
FEW = 10
"""Resamples on the rarer side from which their share is a p-value: of fewer it is off by a third or more by chance."""


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


def paired_mean_bootstrap(
    a: ArrayLike, b: ArrayLike, generator: np.random.Generator, resamples: int = 10_000, confidence: float = 0.95
) -> PairedDifference:
    """Paired bootstrap of a mean of per-example values, shape (examples,) or (seeds, examples).

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
    """Paired bootstrap of a statistic that follows from means of per-example columns, such as F1, MCC or Pearson's r.

    `a` and `b` have shape (seeds, examples, columns); `statistic` takes means of shape (..., columns) to values of
    shape (...). F1, for one, is 2 t / (2 t + f + m) from the shares t of true positives, f of false positives and m of
    false negatives. Raises ValueError for no examples, unequal shapes, missing values, and a statistic undefined on the
    whole data.
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


def level_against_best(methods: int, level: float = 0.05) -> float:
    """The level for `holm`-adjusted p-values of tests of all other methods against the one with the highest score.

    The best is chosen and tested on the same data, which makes differences from it too many: of ten equal methods one
    or more differs in about 15 % of cases at level 0.05. 2 · level / methods corrects for every pair that the choice
    could have led to and keeps the promised level.
    """
    return 2 * proportion(level, "level") / methods


def _pair(a: ArrayLike, b: ArrayLike, *dimensions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values of two methods on the same seeds and examples."""
    first, second = numbers(a, "values of a", *dimensions), numbers(b, "values of b", *dimensions)
    if first.shape != second.shape:
        raise ValueError(f"a has shape {first.shape} and b {second.shape}: they must share seeds and examples")
    return first, second


def _paired_difference(difference: float, replicates: NDArray[np.float64], confidence: float) -> PairedDifference:
    if not np.isfinite(difference):
        raise ValueError("the statistic is undefined on the whole data, as a correlation of constant predictions is")
    return PairedDifference(difference, percentile_interval(replicates, confidence), _p_value(difference, replicates))


def _p_value(difference: float, replicates: NDArray[np.float64]) -> float:
    """The two-sided p-value as the module's docstring has it; `replicates` has shape (resamples,)."""
    not_above, not_below = np.sum(~(replicates > ROUNDING)), np.sum(~(replicates < -ROUNDING))
    rarer, deviation = int(min(not_above, not_below)), float(np.nanstd(replicates, ddof=1))
    if rarer < FEW and deviation > ROUNDING:
        return float(2 * stats.norm.sf(abs(difference) / deviation))
    return min(1.0, 2 * (1 + rarer) / (len(replicates) + 1))
