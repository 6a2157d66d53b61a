"""Street views whose nearest vehicle is as large as it is near, with the objects' labels of KITTI's camera frame.

The four distance classes of VTAB (nearest vehicle up to 8 m, up to 20 m, farther, none) come in turn. Pedestrians,
cyclists and trams stand among the vehicles and do not count; regions marked DontCare carry the original's location of
-1000 m and are not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, HORIZON = 128, 64, 24
FOCAL = 90.0
"""Pixels."""
CAMERA_HEIGHT = 1.65
"""Metres; y of an object, which KITTI gives at its foot."""
VEHICLES = {"Car": (1.7, 1.5), "Van": (1.9, 2.1), "Truck": (2.5, 3.1)}
OTHERS = {"Pedestrian": (0.6, 1.75), "Cyclist": (0.6, 1.8), "Tram": (2.5, 3.5)}
"""Width and height in metres."""
NEAREST = ((4.2, 8.0), (8.0, 20.0), (20.0, 60.0))
"""Range in metres of the nearest vehicle, by class; the fourth class has none."""
CLASSES = len(NEAREST) + 1
FARTHEST = 65.0
DONT_CARE = ("DontCare", (-1000.0, -1000.0, -1000.0))
DONT_CARE_SHARE = 0.3


@dataclass(frozen=True)
class StreetObject:
    """A labelled object; `location` in metres: right, down and forward from the camera."""

    type: str
    location: tuple[float, float, float]


def scenes(count: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[list[StreetObject]]]:
    """`count` images (n, 64, 128, 3) and the objects of each; the distance classes are as equal as can be."""
    classes = rng.permutation(np.arange(count) % CLASSES)
    streets = [_objects(int(distance), rng) for distance in classes]
    return np.stack([_draw(objects, rng) for objects in streets]), streets


def _objects(distance: int, rng: np.random.Generator) -> list[StreetObject]:
    objects = []
    if distance < len(NEAREST):
        nearest = float(rng.uniform(*NEAREST[distance]))
        ahead = [nearest, *rng.uniform(nearest, FARTHEST, rng.integers(3))]
        objects = [_place(list(VEHICLES)[rng.integers(len(VEHICLES))], float(z), rng) for z in ahead]
    others = rng.choice(list(OTHERS), rng.integers(3))
    objects += [_place(str(kind), float(rng.uniform(6, 40)), rng) for kind in others]
    if rng.random() < DONT_CARE_SHARE:
        objects.append(StreetObject(*DONT_CARE))
    return objects


def _place(kind: str, z: float, rng: np.random.Generator) -> StreetObject:
    """An object at z metres whose centre is in view."""
    reach = 0.4 * WIDTH * z / FOCAL
    return StreetObject(kind, (float(rng.uniform(-reach, reach)), CAMERA_HEIGHT, z))


def _draw(objects: list[StreetObject], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Sky, road and one box per object, far to near: a vehicle has a dark window and wheels."""
    image = np.empty((HEIGHT, WIDTH, 3))
    image[:HORIZON] = rng.uniform(140, 230, 3)
    image[HORIZON:] = rng.uniform(60, 130)
    image *= rng.uniform(0.8, 1.1)
    seen = [drawn for drawn in objects if drawn.type != DONT_CARE[0]]
    for drawn in sorted(seen, key=lambda drawn: -drawn.location[2]):
        _paint(image, drawn, rng.uniform(30, 220, 3))
    image += rng.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _paint(image: NDArray[np.float64], drawn: StreetObject, colour: NDArray[np.float64]) -> None:
    x, y, z = drawn.location
    width, height = (FOCAL * metres / z for metres in {**VEHICLES, **OTHERS}[drawn.type])
    centre, foot = WIDTH / 2 + FOCAL * x / z, HORIZON + FOCAL * y / z
    _rectangle(image, centre, foot, width, height, colour)
    if drawn.type in VEHICLES:
        _rectangle(image, centre, foot - 0.55 * height, 0.8 * width, 0.3 * height, np.full(3, 40.0))
        for side in (-0.35, 0.35):
            _rectangle(image, centre + side * width, foot, 0.2 * width, 0.15 * height, np.zeros(3))


def _rectangle(
    image: NDArray[np.float64], centre: float, foot: float, width: float, height: float, colour: NDArray[np.float64]
) -> None:
    """Fill a box at least one pixel wide and high; rows above the image are cut."""
    left, right = max(0, round(centre - width / 2)), round(centre + width / 2)
    top, bottom = max(0, round(foot - height)), round(foot)
    image[top : max(bottom, top + 1), left : max(right, left + 1)] = colour
