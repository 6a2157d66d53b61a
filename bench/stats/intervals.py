"""How certain a mean is, over seeds or over examples.

The two answer different questions: over seeds, what another training run would score; over examples, what the same
run would score on another test set of this size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.stats.arrays import numbers, proportion

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
    examples. It holds for a mean of some hundred examples or more, and not for F1 or a correlation. None for one
    example; raises ValueError for no values.
    """
    scores = np.atleast_2d(numbers(values, "values", 1, 2)).mean(axis=0)
    return float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None
