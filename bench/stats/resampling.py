"""Bootstrap draws in pieces of bounded memory. Equal generators give equal draws, whatever the size of the pieces."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.stats.arrays import numbers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CELLS = 4_000_000
"""Array elements held at a time: two arrays of 8 bytes per element stay under 100 MB."""


def pieces(resamples: int, cells_of_one: int) -> Iterator[int]:
    """How many resamples to hold at a time, each of `cells_of_one` elements; they add up to `resamples`.

    Raises ValueError for fewer than one resample.
    """
    if resamples < 1:
        raise ValueError(f"{resamples} resamples were asked for: at least 1 is needed")
    at_once = max(1, CELLS // cells_of_one)
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)


def resampled_means(values: ArrayLike, resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Means of columns over examples drawn with replacement, all columns on the same draws.

    `values` has shape (examples, columns), the result (resamples, columns). How often each example is drawn is
    multinomial; examples with equal rows are drawn as one, which is the same distribution and, for right-or-wrong
    scores, faster by orders of magnitude. The order of the examples does not matter, to the last digit.
    """
    table = numbers(values, "values", 2)
    rows, counts = np.unique(table, axis=0, return_counts=True)
    examples = len(table)
    drawn = (
        generator.multinomial(examples, counts / examples, size=size) @ rows for size in pieces(resamples, len(rows))
    )
    return np.concatenate(list(drawn)) / examples


def stratified(scores: NDArray[np.float64], resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Resamples of a (seeds, tasks) array, shape (resamples, seeds, tasks): seeds are drawn anew within each task.

    Source: Agarwal et al. 2021 (arXiv:2108.13264), section 4.1.
    """
    return scores.take(_places(scores.shape, resamples, generator))


@functools.lru_cache(maxsize=1)  # many methods have scores of one shape
def stratified_places(shape: tuple[int, ...], resamples: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the elements of `stratified` resamples lie in any array of this shape."""
    return _places(shape, resamples, np.random.default_rng(seed))


def _places(shape: tuple[int, ...], resamples: int, generator: np.random.Generator) -> NDArray[np.int64]:
    seeds, tasks = shape
    return generator.integers(seeds, size=(resamples, seeds, tasks)) * tasks + np.arange(tasks)
