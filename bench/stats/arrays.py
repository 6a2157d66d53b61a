"""What the statistics ask of their input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def numbers(values: ArrayLike, name: str, *dimensions: int) -> NDArray[np.float64]:
    """The values as floats.

    Raises ValueError, with `name` for the reader, if there are none, if they have another number of dimensions than
    one of `dimensions`, or if one is missing or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name} hold no values: there is nothing to compute")
    if array.ndim not in dimensions:
        allowed = " or ".join(map(str, dimensions))
        raise ValueError(f"{name} have shape {array.shape}: expected {allowed} dimensions")
    missing = int(np.sum(~np.isfinite(array)))
    if missing:
        raise ValueError(f"{missing} of the {array.size} {name} are missing or infinite")
    return array


def proportion(value: float, name: str) -> float:
    """The value, such as a confidence of 0.95. Raises ValueError unless it lies between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise ValueError(f"the {name} is {value}: it must lie between 0 and 1, such as 0.95 for a confidence")
    return value
