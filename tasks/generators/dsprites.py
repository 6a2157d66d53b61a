"""Sprites on dSprites' factor grid (google-deepmind/dsprites-dataset): one white shape on black, 64x64, no noise.

The grid and its order are the original's: 3 shapes, 6 scales, 40 orientations of which the last repeats the first,
32 x and 32 y positions, with y changing fastest. The original's outlines were never published, so sizes are a choice:
at scale 1 a square of side 20, an ellipse with semi-axes 14 and 8, a heart in a square of side 22.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SHAPES = ("square", "ellipse", "heart")
SIDE = 64
FIRST_CENTRE = 16
"""Pixel of the sprite's centre at position 0; positions are one pixel apart, so no sprite leaves the canvas."""
BOUNDARY = 1e-9
"""Pixel centres on an outline count as inside, however the rotation rounds."""


class Factors(NamedTuple):
    """Indices of the five factors, each (n,) or a number; as a tuple in the order of the file."""

    shape: NDArray[np.int64]
    scale: NDArray[np.int64]
    orientation: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]


SIZES = (len(SHAPES), 6, 40, 32, 32)
COUNT = 737_280


def factors(indices: ArrayLike) -> Factors:
    """The factors of images 0 .. 737279 of the original file. Raises ValueError outside that range."""
    return Factors(*(np.asarray(factor, np.int64) for factor in np.unravel_index(np.asarray(indices, np.int64), SIZES)))


def index_of(
    shape: ArrayLike, scale: ArrayLike, orientation: ArrayLike, x: ArrayLike, y: ArrayLike
) -> NDArray[np.int64]:
    """The position in the original file of the image with these factors. Raises ValueError for one out of range."""
    grid = tuple(np.asarray(factor, np.int64) for factor in (shape, scale, orientation, x, y))
    return np.asarray(np.ravel_multi_index(grid, SIZES), np.int64)


def angle(orientation: ArrayLike) -> NDArray[np.float64]:
    """Radians, in 39 steps per turn; orientation 39 is exactly orientation 0."""
    turn = SIZES[2] - 1
    return 2 * np.pi * (np.asarray(orientation) % turn) / turn


def scale_of(scale: ArrayLike) -> NDArray[np.float64]:
    """0.5, 0.6, .. 1.0."""
    return (np.asarray(scale) + 5) / 10


def sprites(indices: ArrayLike) -> NDArray[np.uint8]:
    """The images (n, 64, 64) at these positions (n,) of the original file: 1 inside the sprite, 0 outside.

    Rows grow with y and columns with x; a pixel is on if its centre lies inside the rotated outline.
    """
    drawn = factors(np.atleast_1d(np.asarray(indices, np.int64)))
    images = np.empty((len(drawn.shape), SIDE, SIDE), np.uint8)
    for shape, inside in enumerate((_square, _ellipse, _heart)):
        rows = drawn.shape == shape
        images[rows] = inside(*_own_coordinates(Factors(*(factor[rows] for factor in drawn))))
    return images


def _own_coordinates(drawn: Factors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each pixel in its sprite's unrotated, unscaled frame: two arrays (n, 64, 64), the second growing upwards."""
    pixel = np.arange(SIDE)
    right = pixel[None, None, :] - (FIRST_CENTRE + drawn.x)[:, None, None]
    up = (FIRST_CENTRE + drawn.y)[:, None, None] - pixel[None, :, None]
    scale = scale_of(drawn.scale)[:, None, None]
    cosine, sine = (function(angle(drawn.orientation))[:, None, None] / scale for function in (np.cos, np.sin))
    return cosine * right + sine * up, cosine * up - sine * right


def _square(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.maximum(np.abs(u), np.abs(v)) <= 10 + BOUNDARY


def _ellipse(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (u / 14) ** 2 + (v / 8) ** 2 <= 1 + BOUNDARY


def _heart(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(a^2 + b^2 - 1)^3 <= a^2 b^3, which spans 2.28 in width and from -1 to 1.24 in height, moved to the centre."""
    a, b = u * (2.28 / 22), v * (2.28 / 22) + 0.12
    return (a**2 + b**2 - 1) ** 3 - a**2 * b**3 <= BOUNDARY
