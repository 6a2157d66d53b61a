"""Grey views of toys put together from boxes, on smallNORB's factor grid (LeCun, Huang & Bottou 2004).

5 categories x 10 instances x 9 elevations x 18 azimuths x 6 lightings, 96x96 pixels, orthographic. x points to the
front of a toy, which a dark face marks; an instance varies the proportions and the brightness of its category.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

SIDE = 96
OVERSAMPLING = 2
PIXELS_PER_UNIT = 40
CATEGORIES = ("animal", "human", "airplane", "truck", "car")
INSTANCES = {"train": (4, 6, 7, 8, 9), "test": (0, 1, 2, 3, 5)}
ELEVATIONS, AZIMUTHS, LIGHTINGS = 9, 18, 6
SEED = 2004

_BOXES: dict[str, list[tuple[float, ...]]] = {
    "animal": [
        (0.0, 0.0, 0.0, 1.2, 0.45, 0.45),
        (0.75, 0.0, 0.35, 0.4, 0.35, 0.4),
        (0.45, 0.18, -0.45, 0.14, 0.14, 0.5),
        (0.45, -0.18, -0.45, 0.14, 0.14, 0.5),
        (-0.45, 0.18, -0.45, 0.14, 0.14, 0.5),
        (-0.45, -0.18, -0.45, 0.14, 0.14, 0.5),
        (-0.75, 0.0, 0.15, 0.35, 0.1, 0.1),
    ],
    "human": [
        (0.0, 0.0, 0.1, 0.3, 0.55, 0.75),
        (0.05, 0.0, 0.7, 0.32, 0.3, 0.35),
        (0.0, 0.16, -0.6, 0.25, 0.2, 0.7),
        (0.0, -0.16, -0.6, 0.25, 0.2, 0.7),
        (0.35, 0.36, 0.3, 0.65, 0.14, 0.14),
        (0.2, -0.36, 0.1, 0.4, 0.14, 0.14),
    ],
    "airplane": [
        (0.0, 0.0, 0.0, 1.8, 0.28, 0.28),
        (0.15, 0.0, 0.0, 0.45, 1.8, 0.07),
        (-0.8, 0.0, 0.05, 0.22, 0.7, 0.06),
        (-0.8, 0.0, 0.3, 0.25, 0.06, 0.4),
        (0.6, 0.0, 0.15, 0.35, 0.24, 0.14),
    ],
    "truck": [
        (-0.25, 0.0, 0.1, 1.3, 0.65, 0.7),
        (0.7, 0.0, -0.05, 0.5, 0.6, 0.45),
        (0.65, 0.0, -0.35, 0.25, 0.7, 0.25),
        (-0.55, 0.0, -0.35, 0.35, 0.7, 0.25),
    ],
    "car": [
        (0.0, 0.0, -0.1, 1.6, 0.7, 0.3),
        (-0.2, 0.0, 0.17, 0.8, 0.6, 0.28),
        (0.5, 0.0, -0.27, 0.3, 0.76, 0.2),
        (-0.5, 0.0, -0.27, 0.3, 0.76, 0.2),
    ],
}
"""Boxes of each category: centre x, y, z and size x, y, z. Neighbours of the front face are smaller or lower."""
_MARKED = {"animal": 1, "human": 1, "airplane": 0, "truck": 1, "car": 1}
"""Which box of each category carries the dark front face."""
_LAMPS = np.array(
    [[0.6, 0.2, 0.9], [0.2, 0.9, 0.5], [0.2, -0.9, 0.5], [0.9, 0.5, 0.2], [-0.3, 0.3, 1.0], [0.5, -0.5, 0.7]]
)
"""Where the light of each lighting comes from: towards the camera, to the right, up."""
_LAMP_STRENGTHS = np.array([0.75, 0.6, 0.9, 0.7, 0.5, 1.0])
_NORMALS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
FRONT_FACE = 0
_FACES = np.array(
    [
        [[1, -1, -1], [1, 1, -1], [1, 1, 1], [1, -1, 1]],
        [[-1, -1, -1], [-1, 1, -1], [-1, 1, 1], [-1, -1, 1]],
        [[-1, 1, -1], [1, 1, -1], [1, 1, 1], [-1, 1, 1]],
        [[-1, -1, -1], [1, -1, -1], [1, -1, 1], [-1, -1, 1]],
        [[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]],
        [[-1, -1, -1], [1, -1, -1], [1, 1, -1], [-1, 1, -1]],
    ]
)
"""Corners (6, 4, 3) of the faces of a box that reaches from -1 to 1, in the order of their normals."""


class Factors(NamedTuple):
    """Indices of the five factors, each (n,); azimuth counts steps of 20 degrees from 0, elevation of 5 from 30."""

    category: NDArray[np.int64]
    instance: NDArray[np.int64]
    elevation: NDArray[np.int64]
    azimuth: NDArray[np.int64]
    lighting: NDArray[np.int64]


def combinations(split: str) -> int:
    """How many views the split "train" or "test" has: 24300, as in the original."""
    return len(CATEGORIES) * len(INSTANCES[split]) * ELEVATIONS * AZIMUTHS * LIGHTINGS


def factors(split: str, indices: ArrayLike) -> Factors:
    """The factors of views 0 .. 24299 of a split, lighting changing fastest. Raises ValueError outside that range."""
    sizes = (len(CATEGORIES), len(INSTANCES[split]), ELEVATIONS, AZIMUTHS, LIGHTINGS)
    category, instance, *view = (
        np.asarray(factor, np.int64) for factor in np.unravel_index(np.asarray(indices), sizes)
    )
    return Factors(category, np.asarray(INSTANCES[split])[instance], *view)


def views(drawn: Factors) -> NDArray[np.uint8]:
    """The images (n, 96, 96) of these factors."""
    return np.stack([_view(*(int(factor) for factor in row)) for row in zip(*drawn, strict=True)])


@cache
def _toy(category: int, instance: int) -> tuple[NDArray[np.float64], float]:
    """Face corners (boxes, 6, 4, 3) of one toy within a ball of radius 1, and how bright it is painted."""
    rng = np.random.default_rng([SEED, category, instance])
    boxes = np.array(_BOXES[CATEGORIES[category]])
    centres, sizes = boxes[:, :3], boxes[:, 3:] * rng.uniform(0.75, 1.25, (len(boxes), 3))
    corners = (centres * rng.uniform(0.85, 1.15, 3))[:, None, None, :] + _FACES * sizes[:, None, None, :] / 2
    return corners / np.linalg.norm(corners, axis=-1).max(), float(rng.uniform(0.6, 0.95))


def _view(category: int, instance: int, elevation: int, azimuth: int, lighting: int) -> NDArray[np.uint8]:
    """One image; faces turned to the camera are painted far to near."""
    corners, paint = _toy(category, instance)
    turn = _turn(np.radians(20 * azimuth))
    to_camera = (_rise(np.radians(30 + 5 * elevation)) @ turn).T
    seen, towards = corners @ to_camera, (_NORMALS @ to_camera)[:, 0]
    brightness = paint * _light(category, lighting, _NORMALS @ turn.T)
    faces = [(box, face) for box in range(len(corners)) for face in np.flatnonzero(towards > 0)]
    faces.sort(key=lambda at: float(seen[at][:, 0].mean()))
    canvas = Image.new("L", (SIDE * OVERSAMPLING,) * 2, int(95 + 60 * _LAMP_STRENGTHS[lighting]))
    pen = ImageDraw.Draw(canvas)
    points = OVERSAMPLING * (SIDE / 2 + PIXELS_PER_UNIT * seen[..., 1:] * [1, -1])
    for at in faces:
        pen.polygon([(x, y) for x, y in points[at].tolist()], fill=min(255, int(brightness[at])))
    return np.asarray(canvas.reduce(OVERSAMPLING))


def _light(category: int, lighting: int, normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """How bright a white toy's faces (boxes, 6) are whose normals are (6, 3); the front is marked by a dark face."""
    lamp = _LAMPS[lighting] / np.linalg.norm(_LAMPS[lighting])
    faces = 220 * (0.25 + _LAMP_STRENGTHS[lighting] * np.clip(normals @ lamp, 0, 1))
    light = np.repeat(faces[None, :], len(_BOXES[CATEGORIES[category]]), axis=0)
    light[_MARKED[CATEGORIES[category]], FRONT_FACE] *= 0.2
    return light


def _turn(angle: float) -> NDArray[np.float64]:
    """Rotation about the vertical."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def _rise(angle: float) -> NDArray[np.float64]:
    """From toy coordinates to those of a camera that is raised by `angle`: towards it, to the right, up."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
