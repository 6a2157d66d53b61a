"""Textures with as many classes as a task has: what a natural or specialised image task is replaced by in a sample.

A class is a pattern (stripes, checks, spots, rings or waves) with an orientation, a frequency and two colours, all
drawn from the number of classes and a salt. An image adds what does not count: phase, a slight turn and stretch,
shifted colours, brightness, contrast and noise, so that classes overlap where their patterns are close.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIDE = 64
PATTERNS = ("stripes", "checks", "spots", "rings", "waves")
SEED = 3107
TURN, STRETCH = 0.12, 0.10
"""Standard deviations of an image's turn (radians) and of the logarithm of its frequency."""
COLOUR_SHIFT, NOISE = 38.0, 26.0
"""Standard deviations, of 255."""


@dataclass(frozen=True)
class _Classes:
    """What tells classes apart, each (classes,) but for the colours (classes, 2, 3)."""

    pattern: NDArray[np.int64]
    orientation: NDArray[np.float64]
    frequency: NDArray[np.float64]
    colours: NDArray[np.float64]


def images(
    labels: ArrayLike, classes: int, rng: np.random.Generator, salt: int = 0, side: int = SIDE
) -> NDArray[np.uint8]:
    """One image (n, side, side, 3) per label (n,); tasks of as many classes but another `salt` look different.

    Raises ValueError for a label outside 0 .. classes - 1.
    """
    label = np.asarray(labels, np.int64)
    if len(label) and not (label.min() >= 0 and label.max() < classes):
        raise ValueError(f"Labels must lie between 0 and {classes - 1}; got {label.min()} .. {label.max()}.")
    drawn = _classes(classes, salt)
    mix = _patterns(drawn, label, rng, side)
    contrast = rng.uniform(0.55, 1.0, (len(label), 1, 1))
    mix = (0.5 + contrast * (mix - 0.5)).astype(np.float32)[..., None]
    colours = drawn.colours[label] + rng.normal(0, COLOUR_SHIFT, (len(label), 2, 3))
    first, second = colours.astype(np.float32).swapaxes(0, 1)[:, :, None, None, :]
    brightness = rng.uniform(0.7, 1.2, (len(label), 1, 1, 1)).astype(np.float32)
    noise = np.float32(NOISE) * rng.standard_normal((len(label), side, side, 1), np.float32)
    return np.clip(brightness * (first + mix * (second - first)) + noise, 0, 255).astype(np.uint8)


def _classes(classes: int, salt: int) -> _Classes:
    rng = np.random.default_rng([SEED, classes, salt])
    return _Classes(
        pattern=rng.integers(len(PATTERNS), size=classes),
        orientation=rng.uniform(0, np.pi, classes),
        frequency=np.exp(rng.uniform(np.log(0.15), np.log(0.8), classes)),
        colours=rng.uniform(40, 215, (classes, 2, 3)),
    )


def _patterns(drawn: _Classes, label: NDArray[np.int64], rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """How much of the second colour each pixel (n, side, side) has, from 0 to 1."""
    count = (len(label), 1, 1)
    direction = drawn.orientation[label].reshape(count) + rng.normal(0, TURN, count)
    frequency = drawn.frequency[label].reshape(count) * np.exp(rng.normal(0, STRETCH, count)) * (64 / side)
    shift_x, shift_y = rng.uniform(-0.5, 0.5, (2, *count)) * side
    pixel = np.arange(side) - (side - 1) / 2
    right, down = pixel[None, None, :] - shift_x, pixel[None, :, None] - shift_y
    along = (frequency * (np.cos(direction) * right + np.sin(direction) * down)).astype(np.float32)
    across = (frequency * (np.cos(direction) * down - np.sin(direction) * right)).astype(np.float32)
    mix = np.empty((len(label), side, side), np.float32)
    for pattern, name in enumerate(PATTERNS):
        rows = drawn.pattern[label] == pattern
        mix[rows] = _mix(name, along[rows], across[rows])
    return mix


def _mix(pattern: str, along: NDArray[np.float32], across: NDArray[np.float32]) -> NDArray[np.float32]:
    """One pattern in coordinates (n, side, side) of which 2 pi is a period."""
    if pattern == "stripes":
        return _wave(along)
    if pattern == "checks":
        return (np.sin(along) * np.sin(across) > 0).astype(np.float32)
    if pattern == "spots":
        return np.asarray(np.clip(1.5 * (np.cos(along) + np.cos(across)) - 1, 0, 1), np.float32)
    if pattern == "rings":
        return _wave(np.hypot(along, 0.6 * across))
    return _wave(along + 1.5 * np.sin(across))


def _wave(phase: NDArray[Any]) -> NDArray[np.float32]:
    """A sine between 0 and 1."""
    return np.asarray(0.5 + 0.5 * np.sin(phase), np.float32)
