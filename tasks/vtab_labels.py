"""How VTAB turns the annotations of the Structured tasks' data sets into classes.

Source: google-research/task_adaptation (data/clevr.py, kitti.py, dsprites.py, smallnorb.py). Distances are cut with
thresholds of which the largest one strictly below the distance gives the class: 8.0 still belongs to the class below 8.
Every function raises ValueError for annotations that the data set cannot hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLEVR_OBJECTS = (3, 10)
CLEVR_THRESHOLDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_VEHICLES = ("Car", "Van", "Truck")
KITTI_THRESHOLDS = (-100.0, 8.0, 20.0, 999.0)
KITTI_NO_VEHICLE = 1000.0


def clevr_count(objects: int) -> int:
    """Class 0 to 7 of a scene with 3 to 10 objects."""
    fewest, most = CLEVR_OBJECTS
    if not fewest <= objects <= most:
        raise ValueError(f"a CLEVR scene has {fewest} to {most} objects, not {objects}")
    return objects - fewest


def clevr_distance(depths: Sequence[float] | NDArray[Any]) -> int:
    """Class 0 to 5 of the object closest to the camera.

    `depths` holds the third entry of each object's `pixel_coords`, in Blender units, shape (objects,).
    """
    if len(depths) == 0 or not CLEVR_THRESHOLDS[0] < min(depths) <= CLEVR_THRESHOLDS[-1]:
        raise ValueError(f"the depths of a CLEVR scene's objects cannot be {list(depths)}")
    return _below(min(depths), CLEVR_THRESHOLDS)


def kitti_distance(types: Sequence[str], forward_metres: Sequence[float] | NDArray[Any]) -> int:
    """Class of the closest vehicle: 0 up to 8 m, 1 up to 20 m, 2 beyond, 3 where there is no car, van or truck.

    The two arguments run in parallel, an item for each annotated object; `forward_metres` is the third coordinate of
    its location in the camera's frame.
    """
    vehicles = [metres for kind, metres in zip(types, forward_metres, strict=True) if kind in KITTI_VEHICLES]
    return _below(min(vehicles, default=KITTI_NO_VEHICLE), KITTI_THRESHOLDS)


def dsprites_location(x_position: ArrayLike) -> NDArray[np.int64]:
    """Classes 0 to 15 of the horizontal position's indices 0 to 31, shape (examples,)."""
    return _indices(x_position, 32) // 2


def dsprites_orientation(orientation: ArrayLike) -> NDArray[np.int64]:
    """Classes 0 to 15 of the orientation's indices 0 to 39, shape (examples,): three and two indices in turn."""
    return _indices(orientation, 40) * 2 // 5


def smallnorb_azimuth(azimuth: ArrayLike) -> NDArray[np.int64]:
    """Classes 0 to 17 of the stored azimuths 0, 2, ..., 34 (units of 10 degrees), shape (examples,)."""
    stored = _indices(azimuth, 35)
    if np.any(stored % 2):
        raise ValueError(f"azimuths are stored as even numbers, not {stored[stored % 2 == 1][0]}")
    return stored // 2


def smallnorb_elevation(elevation: ArrayLike) -> NDArray[np.int64]:
    """Classes 0 to 8, which are the stored elevations (30 to 70 degrees in steps of 5), shape (examples,)."""
    return _indices(elevation, 9)


def _below(distance: float, thresholds: Sequence[float]) -> int:
    """Index of the largest threshold strictly below the distance."""
    return int(np.searchsorted(thresholds, distance, side="left")) - 1


def _indices(values: ArrayLike, count: int) -> NDArray[np.int64]:
    indices = np.asarray(values, np.int64)
    outside = indices[(indices < 0) | (indices >= count)]
    if outside.size:
        raise ValueError(f"{outside[0]} is no index from 0 to {count - 1}")
    return indices
