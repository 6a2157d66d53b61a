"""Score against cost: which methods nobody betters in both, and which cheap one is good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def pareto_front(cost: ArrayLike, score: ArrayLike) -> NDArray[np.bool_]:
    """Which rows no other row betters: none costs as little and scores as high, and is better in one of the two.

    `cost` (lower is better), `score` (higher is better) and the result have shape (rows,), each in any unit. Equal rows
    stay on the front together; a row that misses either value (NaN) is never on it. It takes scores at face value: a
    row may be on the front by less than its standard error. Raises ValueError for no rows and unequal shapes.
    """
    costs, scores = _columns(cost, score)
    as_cheap, as_good = costs[:, None] <= costs, scores[:, None] >= scores
    better = (costs[:, None] < costs) | (scores[:, None] > scores)
    dominated = (as_cheap & as_good & better).any(axis=0)
    return ~dominated & _known(costs, scores)


def cheapest_within_one_standard_error(cost: ArrayLike, score: ArrayLike, standard_error: ArrayLike) -> int | None:
    """Index of the cheapest row whose score is at most one standard error of the best row below the best.

    The one-standard-error rule (Breiman et al. 1984; Hastie et al. 2009, section 7.10). All arrays have shape (rows,),
    `standard_error` in the unit of `score`. Rows that miss cost or score are passed over; among equally cheap rows the
    higher score wins, then the first; of several best rows the cheapest counts. None where no row is complete or the
    best row's standard error is missing. The rule is a convention for choosing, not a test: paired differences are
    often more certain than either score. Raises ValueError for no rows, unequal shapes and a negative standard error.
    """
    costs, scores, errors = _columns(cost, score, standard_error)
    if np.any(errors < 0):
        raise ValueError(f"a standard error is never negative: found {np.nanmin(errors)}")
    known = np.flatnonzero(_known(costs, scores))
    if not len(known):
        return None
    best = min(known, key=lambda row: (-scores[row], costs[row]))
    enough = [row for row in known if scores[row] >= scores[best] - errors[best]]
    return int(min(enough, key=lambda row: (costs[row], -scores[row]))) if enough else None


def _columns(*columns: ArrayLike) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 1:
        raise ValueError(f"columns of one length are needed: found shapes {', '.join(map(str, sorted(shapes)))}")
    if not len(arrays[0]):
        raise ValueError("there are no rows: there is nothing to choose from")
    return arrays


def _known(costs: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    return ~np.isnan(costs) & ~np.isnan(scores)
