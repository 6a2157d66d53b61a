"""Scenes of coloured shapes with labels at two levels, on which the tiny ViT is pretrained.

A scene has one to four shapes, mostly one, at any place, size and rotation. Half of the scenes are light shapes on
dark, which is where form is learned first; half are coloured, on a plain, shaded, striped or spotted ground. Nothing is
shared with the generators of the benchmark's own built-in samples. How a shape is turned is a label of the patches that
it covers, never of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SIDE, PATCH = 64, 8
SHAPES = ("disc", "triangle", "square", "pentagon", "star", "cross", "bar", "arrow", "half disc")
COLOURS = ("grey", "red", "green", "blue", "yellow", "purple", "cyan", "orange")
GROUNDS = ("plain", "shaded", "striped", "spotted")
MOST_SHAPES = 4
CELLS = 8
"""Columns and rows in which positions are told apart."""
SMALLEST_RADIUS, LARGEST_RADIUS, SIZE_CLASSES = 5.0, 19.0, 4
ANGLES = 720
GREY_SHARE, LONE_SHARE = 0.5, 0.7
GROUND_SHARES = (0.4, 0.2, 0.2, 0.2)
HARMONICS = (1, 2, 4)
FOLDS = (0, 3, 4, 5, 5, 4, 2, 1, 1)
"""Turns per circle that leave each of SHAPES as it is; 0 for any turn."""
GEOMETRY = 5 + 2 * len(HARMONICS)

SCENE_CLASSES = {
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "column": CELLS,
    "row": CELLS,
    "size": SIZE_CLASSES,
    "count": MOST_SHAPES,
    "ground": len(GROUNDS),
}
"""Labels of a scene and their number of classes; those of a shape are those of the scene's largest."""
PATCH_CLASSES = {"shape": len(SHAPES) + 1, "colour": len(COLOURS) + 1}
"""Labels of a patch: of the shape that covers most of it, the last class where none covers a tenth of it."""

_RGB = np.array(
    [
        [150, 150, 150],
        [210, 40, 40],
        [40, 160, 50],
        [45, 70, 215],
        [235, 215, 45],
        [140, 45, 190],
        [45, 200, 205],
        [240, 135, 30],
    ],
    np.float32,
)


@dataclass(frozen=True)
class Scenes:
    """`images` (n, 64, 64, 3) from 0 to 255; labels of scenes (n,) and of patches (n, 64), row by row.

    `geometry` (n, 64, 11) tells how much of a patch is covered by shapes, how that share leans to the right and to the
    bottom, how far right and down the centre of its shape lies, in LARGEST_RADIUS, and how that shape is turned: the
    cosine and sine of HARMONICS times its rotation, as far as its symmetry defines them. 0 where there is no shape.
    """

    images: NDArray[np.float32]
    scene: dict[str, NDArray[np.int64]]
    patch: dict[str, NDArray[np.int64]]
    geometry: NDArray[np.float32]

    def at(self, patches: NDArray[np.int64]) -> Scenes:
        """The same scenes with labels of these patches (n, kept) alone."""
        patch = {name: np.take_along_axis(labels, patches, axis=1) for name, labels in self.patch.items()}
        return replace(self, patch=patch, geometry=np.take_along_axis(self.geometry, patches[..., None], axis=1))


@dataclass(frozen=True)
class _Drawn:
    """Shapes of n scenes, each (n, MOST_SHAPES), the largest last so that it lies on top."""

    shape: NDArray[np.int64]
    colour: NDArray[np.int64]
    radius: NDArray[np.float32]
    centre: NDArray[np.float32]
    rotation: NDArray[np.float32]
    present: NDArray[np.bool_]


def scenes(count: int, rng: np.random.Generator) -> Scenes:
    """`count` new scenes."""
    drawn, grey = _draw(count, rng), rng.random(count) < GREY_SHARE
    images, ground = _grounds(count, rng)
    drawn.colour[grey], ground[grey] = COLOURS.index("grey"), GROUNDS.index("plain")
    images[grey] = rng.uniform(0, 60, (grey.sum(), 1, 1, 1))
    owner = np.full((count, SIDE, SIDE), MOST_SHAPES)
    for place in range(MOST_SHAPES):
        rows = np.flatnonzero(drawn.present[:, place])
        alpha = _alpha(drawn, rows, place)
        fill = _fill(drawn.colour[rows, place], grey[rows], rng)
        images[rows] += alpha[..., None] * (fill[:, None, None, :] - images[rows])
        owner[rows] = np.where(alpha > 0.5, place, owner[rows])
    images += rng.uniform(0, 8, (count, 1, 1, 1)).astype(np.float32) * rng.standard_normal(images.shape, np.float32)
    patch, geometry = _patch_labels(drawn, owner)
    return Scenes(np.clip(images, 0, 255), _scene_labels(drawn, ground), patch, geometry)


def _draw(count: int, rng: np.random.Generator) -> _Drawn:
    size = (count, MOST_SHAPES)
    radius = np.sort(rng.uniform(SMALLEST_RADIUS, LARGEST_RADIUS, size).astype(np.float32), axis=1)
    margin = radius[..., None] * 0.9
    number = np.where(rng.random(count) < LONE_SHARE, 1, rng.integers(1, MOST_SHAPES + 1, count))
    return _Drawn(
        shape=rng.integers(len(SHAPES), size=size),
        colour=rng.integers(len(COLOURS), size=size),
        radius=radius,
        centre=margin + rng.random((*size, 2), np.float32) * (SIDE - 1 - 2 * margin),
        rotation=rng.uniform(0, 2 * np.pi, size).astype(np.float32),
        present=np.arange(MOST_SHAPES) >= MOST_SHAPES - number[:, None],
    )


def _alpha(drawn: _Drawn, rows: NDArray[np.int64], place: int) -> NDArray[np.float32]:
    """How much of each pixel (rows, 64, 64) the shape at `place` covers in some of the scenes."""
    pixel = np.arange(SIDE, dtype=np.float32)
    right = pixel[None, None, :] - drawn.centre[rows, place, 0, None, None]
    down = pixel[None, :, None] - drawn.centre[rows, place, 1, None, None]
    turned = np.arctan2(down, right) - drawn.rotation[rows, place, None, None]
    index = (turned * (ANGLES / (2 * np.pi)) + 2 * ANGLES).astype(np.int64) % ANGLES
    outline = _OUTLINES[drawn.shape[rows, place, None, None], index] * drawn.radius[rows, place, None, None]
    return np.asarray(np.clip(outline - np.hypot(right, down) + 0.5, 0, 1), np.float32)


def _grounds(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Grounds (n, 64, 64, 3) between two colours each, and which kind each is."""
    kind = rng.choice(len(GROUNDS), count, p=GROUND_SHARES)
    pixel = np.arange(SIDE, dtype=np.float32)
    direction, phase = rng.uniform(0, 2 * np.pi, (2, count, 1, 1)).astype(np.float32)
    wave = rng.uniform(0.15, 0.9, (count, 1, 1)).astype(np.float32)
    cosine, sine = np.cos(direction), np.sin(direction)
    along = cosine * pixel[None, None, :] + sine * pixel[None, :, None]
    across = cosine * pixel[None, :, None] - sine * pixel[None, None, :]
    mix = np.zeros((count, SIDE, SIDE), np.float32)
    shaded, striped, spotted = (kind == GROUNDS.index(name) for name in GROUNDS[1:])
    mix[shaded] = 0.5 + along[shaded] / (3 * SIDE)
    mix[striped] = 0.5 + 0.5 * np.sin(wave * along + phase)[striped]
    mix[spotted] = np.clip(2 * np.sin(wave * along + phase) * np.sin(wave * across), 0, 1)[spotted]
    first, second = rng.uniform(0, 255, (2, count, 1, 1, 3)).astype(np.float32)
    return np.asarray(first + mix[..., None] * (second - first), np.float32), kind


def _fill(colour: NDArray[np.int64], grey: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """A tint (n, 3) of each colour; light in grey scenes, whose ground is dark."""
    tint = (_RGB[colour] + rng.normal(0, 14, (len(colour), 3))) * rng.uniform(0.75, 1.15, (len(colour), 1))
    return np.where(grey[:, None], rng.uniform(120, 255, (len(colour), 1)), tint).astype(np.float32)


def _scene_labels(drawn: _Drawn, ground: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    column, row = np.floor(drawn.centre[:, -1] * (CELLS / SIDE)).astype(np.int64).T
    span = (drawn.radius[:, -1] - SMALLEST_RADIUS) / (LARGEST_RADIUS - SMALLEST_RADIUS)
    return {
        "shape": drawn.shape[:, -1],
        "colour": drawn.colour[:, -1],
        "column": column,
        "row": row,
        "size": np.minimum((span * SIZE_CLASSES).astype(np.int64), SIZE_CLASSES - 1),
        "count": drawn.present.sum(axis=1) - 1,
        "ground": ground,
    }


def _patch_labels(drawn: _Drawn, owner: NDArray[np.int64]) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.float32]]:
    """Labels and geometry of every patch from the place of the shape on top at every pixel (n, 64, 64)."""
    count, across = len(owner), SIDE // PATCH
    patches = owner.reshape(count, across, PATCH, across, PATCH).swapaxes(2, 3).reshape(count, -1, PATCH, PATCH)
    shares = np.stack([(patches == place).mean(axis=(2, 3)) for place in range(MOST_SHAPES)], axis=-1)
    place = np.where(shares.max(axis=-1) >= 0.1, shares.argmax(axis=-1), MOST_SHAPES)
    none = np.ones((count, 1), np.int64)
    labels = {
        name: np.take_along_axis(np.hstack([values, none * (PATCH_CLASSES[name] - 1)]), place, axis=1)
        for name, values in (("shape", drawn.shape), ("colour", drawn.colour))
    }
    return labels, np.concatenate([_coverage(patches), _offsets(drawn, place), _turns(drawn, place)], axis=-1)


def _coverage(patches: NDArray[np.int64]) -> NDArray[np.float32]:
    """Covered share and its lean to the right and to the bottom (n, patches, 3)."""
    covered = (patches < MOST_SHAPES).astype(np.float32)
    lean = np.linspace(-2, 2, PATCH, dtype=np.float32)
    return np.stack([(covered * weight).mean(axis=(2, 3)) for weight in (np.float32(1), lean, lean[:, None])], axis=-1)


def _offsets(drawn: _Drawn, place: NDArray[np.int64]) -> NDArray[np.float32]:
    """From each patch's middle to the centre of the shape at `place` (n, patches), right and down: (n, patches, 2)."""
    row, column = np.divmod(np.arange(place.shape[1]), SIDE // PATCH)
    middle = (np.stack([column, row], axis=-1) + np.float32(0.5)) * np.float32(PATCH)
    shown = np.minimum(place, MOST_SHAPES - 1)[..., None]
    offsets = (np.take_along_axis(drawn.centre, shown, axis=1) - middle) / np.float32(LARGEST_RADIUS)
    return np.asarray(np.where(place[..., None] < MOST_SHAPES, offsets, 0), np.float32)


def _turns(drawn: _Drawn, place: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cosines and sines of the rotation of the shape at `place` (n, patches) at every harmonic: (n, patches, 6)."""
    shown = np.minimum(place, MOST_SHAPES - 1)
    fold = np.take_along_axis(np.array(FOLDS)[drawn.shape], shown, axis=1)
    rotation = np.take_along_axis(drawn.rotation, shown, axis=1)
    waves = []
    for harmonic in HARMONICS:
        defined = (place < MOST_SHAPES) & (fold > 0) & (harmonic % np.maximum(fold, 1) == 0)
        waves += [np.where(defined, wave(harmonic * rotation), 0) for wave in (np.cos, np.sin)]
    return np.stack(waves, axis=-1).astype(np.float32)


def _corners(angles: list[float], radii: list[float]) -> NDArray[np.float64]:
    return np.array([[r * np.cos(a), r * np.sin(a)] for a, r in zip(np.radians(angles), radii, strict=True)])


def _regular(corners: int, inner: float | None = None) -> NDArray[np.float64]:
    """A regular polygon, or a star whose inner corners lie at the radius `inner`."""
    if inner is None:
        return _corners([360 * i / corners for i in range(corners)], [1.0] * corners)
    return _corners([180 * i / corners for i in range(2 * corners)], [1.0, inner] * corners)


def _outline(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance (ANGLES,) from the origin to a polygon around it, by direction."""
    middle = (np.arange(ANGLES) + 0.5) * (2 * np.pi / ANGLES)
    direction = np.stack([np.cos(middle), np.sin(middle)], axis=-1)[:, None, :]
    start, edge = polygon, np.roll(polygon, -1, axis=0) - polygon
    determinant = _cross(direction, edge)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance, along = _cross(start, edge) / determinant, _cross(start, direction) / determinant
    hit = (distance > 0) & (along >= -1e-9) & (along <= 1 + 1e-9)
    return np.asarray(np.where(hit, distance, 0).max(axis=1))


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


_CROSS = np.array([[1, 0.3], [0.3, 0.3], [0.3, 1], [-0.3, 1], [-0.3, 0.3], [-1, 0.3]])
_ARROW = np.array([[1, 0], [0, 0.75], [0, 0.3], [-0.9, 0.3], [-0.9, -0.3], [0, -0.3], [0, -0.75]])
_HALF_DISC = np.array([[np.cos(a), np.sin(a) - 0.4] for a in np.linspace(0, np.pi, 40)])
_OUTLINES = np.stack(
    [
        np.ones(ANGLES),
        *map(
            _outline,
            (
                _regular(3),
                _regular(4),
                _regular(5),
                _regular(5, 0.45),
                np.vstack([_CROSS, -_CROSS]),
                np.array([[1, 0.3], [-1, 0.3], [-1, -0.3], [1, -0.3]]),
                _ARROW,
                _HALF_DISC,
            ),
        ),
    ]
).astype(np.float32)
"""Radius of each shape of circumradius 1 by direction: (shapes, ANGLES)."""
