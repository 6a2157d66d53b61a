"""How certain a mean is, over seeds or over examples.

The two answer different questions: over seeds, what another training run would score; over examples, what the same
run would score on another test set of this size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bench.leaderboard.statistics.arrays import numbers, proportion
from bench.leaderboard.statistics.resampling import resampled_means

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A range of values, in the unit of what it is about."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval, which is None where a single seed leaves it unknown."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Summary:
    """Scores over seeds, in their own unit; what needs two seeds is None for one."""

    mean: float
    standard_deviation: float | None
    """Of the sample, with n - 1."""
    n: int
    half_width: float | None
    """The confidence interval is mean ± half_width."""


def summary(values: ArrayLike, confidence: float = 0.95) -> Summary:
    """Mean, sample standard deviation and t-interval of `values`, shape (seeds,), one score per seed.

    half_width = t(n - 1) · standard_deviation / √n (Student 1908), which takes the scores for normally distributed. It
    is wide for few seeds (2.5 standard deviations either way for 3 seeds, at 95 %), and rightly so; overlapping
    intervals do not show that two methods are equal: test their difference. Raises ValueError for no values.
    """
    scores = numbers(values, "values", 1)
    n, mean = len(scores), float(scores.mean())
    quantile = float(stats.t.ppf((1 + proportion(confidence, "confidence")) / 2, n - 1)) if n > 1 else None
    if quantile is None:
        return Summary(mean, None, n, None)
    deviation = float(scores.std(ddof=1))
    return Summary(mean, deviation, n, quantile * deviation / math.sqrt(n))


def bootstrap_mean_interval(
    values: ArrayLike, generator: np.random.Generator, resamples: int = 10_000, confidence: float = 0.95
) -> Interval | None:
    """Percentile bootstrap interval of the mean of `values`, shape (n,); None for n < 2.

    Source: Efron and Tibshirani 1993, section 13.3. Meant for many examples: of few values it is too narrow (for 3 it
    covers the mean in 76 % of cases instead of 95 %), so over seeds use `summary`. Raises ValueError for no values.
    """
    single = numbers(values, "values", 1)
    replicates = resampled_means(single[:, None], resamples, generator)[:, 0]
    return percentile_interval(replicates, confidence) if len(single) > 1 else None


def percentile_interval(replicates: NDArray[np.float64], confidence: float) -> Interval:
    """The central share `confidence` of bootstrap replicates, shape (resamples,), without those that are NaN.

    Raises ValueError for no replicates.
    """
    if not len(replicates):
        raise ValueError("an interval needs at least 1 resample")
    tail = (1 - proportion(confidence, "confidence")) / 2
    low, high = np.nanquantile(replicates, [tail, 1 - tail])
    return Interval(float(low), float(high))


def standard_error_over_examples(values: ArrayLike) -> float | None:
    """Standard error of a mean of per-example values, shape (examples,) or (seeds, examples), in their unit.

    s / √n over n examples (Miller 2024, arXiv:2411.00640, section 2); of right-or-wrong scores that is the binomial
    √(p (1 - p) / (n - 1)). Seeds are averaged within an example first, because runs on the same examples are no new
    examples. It holds for a mean of some hundred examples or more (below, see `wilson_interval`), and not for F1 or a
    correlation. None for one example; raises ValueError for no values.
    """
    scores = np.atleast_2d(numbers(values, "values", 1, 2)).mean(axis=0)
    return float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, as fractions in [0, 1]; sound near 0 and 1 and for few trials.

    Source: Wilson 1927; method 3 of Newcombe 1998 (Statistics in Medicine 17:857). Trials are independent examples of
    one run: never count an example once per seed. Raises ValueError unless 0 <= successes <= trials and trials >= 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials are no proportion")
    z = float(stats.norm.ppf((1 + proportion(confidence, "confidence")) / 2))
    centre = (successes + z**2 / 2) / (trials + z**2)
    half_width = z / (trials + z**2) * math.sqrt(successes * (trials - successes) / trials + z**2 / 4)
    return Interval(max(0.0, centre - half_width), min(1.0, centre + half_width))
