"""Scenes placed and seen as CLEVR's are (facebookresearch/clevr-dataset-gen), drawn cheaply as shaded discs and boxes.

Three to ten objects stand on a plane; sizes, shapes, materials, colours and the rules that keep objects apart and
visible are those of the original's `render_images.py`. The camera looks along a fixed direction from a jittered place.
An object is a disc, a square or an upright cylinder of the right size in perspective, drawn far to near.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 120, 80
FOCAL = 131.0
"""Focal length in pixels: Blender's 35 mm on a sensor 32 mm wide."""
FEWEST, MOST = 3, 10
SIZES = {"large": 0.7, "small": 0.35}
SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("rubber", "metal")
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
REACH = 3.0
GAP = 0.25
"""Least distance between the circles that two objects stand on."""
MARGIN = 0.4
"""Least separation of two centres along the camera's right, and along its view laid on the plane."""
TRIES = 50
LEAST_VISIBLE_PIXELS = round(200 * WIDTH * HEIGHT / (320 * 240))

CAMERA = 1.015 * np.array([7.5, -6.5, 5.3])
"""About the original's place, moved back until each class of VTAB's closest_object_distance holds 8 to 30 %."""
VIEW = -CAMERA / np.linalg.norm(CAMERA)
LAMP = np.array([-1.7, -2.3, 3.3])
"""Where the light comes from: to the right, downwards, towards the camera."""
AWAY = np.array([VIEW[0], VIEW[1], 0.0]) / np.hypot(VIEW[0], VIEW[1])
"""The view laid on the plane."""
RIGHT = np.array([AWAY[1], -AWAY[0], 0.0])
DOWN = np.cross(VIEW, RIGHT)
CAMERA_JITTER, LAMP_JITTER = 0.5, 1.0
GROUND = np.broadcast_to(np.linspace(150, 185, HEIGHT)[:, None, None], (HEIGHT, WIDTH, 3))


@dataclass(frozen=True)
class SceneObject:
    """One object; `coordinates` is its centre in Blender units, `pixel_coords` column, row and depth of that centre."""

    shape: str
    size: str
    material: str
    color: str
    rotation: float
    coordinates: tuple[float, float, float]
    pixel_coords: tuple[float, float, float]

    @property
    def pixel_radius(self) -> float:
        """Half the object's width on the image."""
        return FOCAL * SIZES[self.size] / self.pixel_coords[2]


def scenes(count: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[list[SceneObject]]]:
    """`count` images (n, 80, 120, 3) and the objects of each; a scene that hides an object is placed anew."""
    numbers = rng.integers(FEWEST, MOST + 1, count)
    cameras = CAMERA + rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, (count, 3))
    lamps = LAMP + rng.uniform(-LAMP_JITTER, LAMP_JITTER, (count, 3))
    lamps /= np.linalg.norm(lamps, axis=1, keepdims=True)
    images = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    objects: list[list[SceneObject]] = [[] for _ in range(count)]
    pending = np.arange(count)
    while len(pending):
        hidden = []
        for scene, placed in zip(pending, _placed(numbers[pending], cameras[pending], rng), strict=True):
            objects[scene] = placed
            images[scene], visible_pixels = _draw(placed, lamps[scene])
            if visible_pixels.min() < LEAST_VISIBLE_PIXELS:
                hidden.append(scene)
        pending = np.array(hidden, np.int64)
    return images, objects


def _placed(
    numbers: NDArray[np.int64], cameras: NDArray[np.float64], rng: np.random.Generator
) -> Iterator[list[SceneObject]]:
    """The objects of each scene, given how many there are and where its camera stands."""
    grid = (len(numbers), MOST)
    sizes, shapes, materials, colours = (
        np.array(list(names))[rng.integers(len(names), size=grid)] for names in (SIZES, SHAPES, MATERIALS, COLOURS)
    )
    rotations = rng.uniform(0, 360, grid)
    radii = np.where(sizes == "large", SIZES["large"], SIZES["small"])
    centres = np.concatenate([_places(numbers, radii, rng), radii[..., None]], axis=-1)
    for scene, number in enumerate(numbers):
        yield [
            SceneObject(
                shape=str(shapes[scene, place]),
                size=str(sizes[scene, place]),
                material=str(materials[scene, place]),
                color=str(colours[scene, place]),
                rotation=float(rotations[scene, place]),
                coordinates=tuple(centres[scene, place].tolist()),
                pixel_coords=_project(centres[scene, place] - cameras[scene]),
            )
            for place in range(number)
        ]


def _places(numbers: NDArray[np.int64], radii: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Places (scenes, MOST, 2) on the plane, of which the first `numbers` (scenes,) keep all rules.

    All scenes gain an object at a time; one for which 50 tries find no place for its next object starts over.
    """
    axes = np.column_stack([RIGHT[:2], AWAY[:2]])  # a rotation, so that it keeps distances
    places, placed = np.zeros((*radii.shape, 2)), np.zeros(len(numbers), np.int64)
    while len(growing := np.flatnonzero(placed < numbers)):
        following = placed[growing]
        tries = rng.uniform(-REACH, REACH, (len(growing), TRIES, 2)) @ axes
        right, away = np.moveaxis(np.abs(tries[:, :, None, :] - places[growing, None, :, :]), -1, 0)
        least = GAP + radii[growing, following, None, None] + radii[growing, None, :]
        fits = (right**2 + away**2 >= least**2) & (np.minimum(right, away) >= MARGIN)
        allowed = (fits | (np.arange(MOST) >= following[:, None, None])).all(axis=-1)
        places[growing, following] = tries[np.arange(len(growing)), allowed.argmax(axis=1)]
        placed[growing] = np.where(allowed.any(axis=1), following + 1, 0)
    return places @ axes.T


def _project(offset: NDArray[np.float64]) -> tuple[float, float, float]:
    """Column, row and depth of a point given relative to the camera."""
    depth = float(offset @ VIEW)
    return WIDTH / 2 + FOCAL * float(offset @ RIGHT) / depth, HEIGHT / 2 + FOCAL * float(offset @ DOWN) / depth, depth


def _draw(objects: list[SceneObject], lamp: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The image, and how many of its pixels show each object."""
    image = GROUND + np.linspace(-12, 12, WIDTH)[:, None] * lamp[0]
    owner = np.full((HEIGHT, WIDTH), len(objects))
    far_to_near = sorted(range(len(objects)), key=lambda index: -objects[index].pixel_coords[2])
    for index in far_to_near:
        _paint(image, owner, index, objects[index], lamp)
    visible = np.bincount(owner.ravel(), minlength=len(objects) + 1)[:-1]
    return np.clip(image, 0, 255).astype(np.uint8), visible


def _paint(
    image: NDArray[np.float64], owner: NDArray[np.int64], index: int, drawn: SceneObject, lamp: NDArray[np.float64]
) -> None:
    """Paint one object over what is there already."""
    column, row, _ = drawn.pixel_coords
    radius = drawn.pixel_radius
    top, left = max(0, int(row - radius)), max(0, int(column - radius))
    window = np.s_[top : int(row + radius) + 2, left : int(column + radius) + 2]
    height, width = owner[window].shape
    u = (np.arange(left, left + width) - column)[None, :] / radius
    v = (np.arange(top, top + height) - row)[:, None] / radius
    inside, shade = _PAINTERS[drawn.shape](u, v, drawn.rotation, lamp)
    colour = 1.25 * shade[..., None] * np.array(COLOURS[drawn.color])
    if drawn.material == "metal":
        colour = colour + 190 * np.clip(1 - 5 * ((u + 0.35) ** 2 + (v + 0.4) ** 2), 0, 1)[..., None]
    image[window][inside] = colour[inside]
    owner[window][inside] = index


Surface = tuple[NDArray[np.bool_], NDArray[np.float64]]


def _cube(u: NDArray[np.float64], v: NDArray[np.float64], rotation: float, lamp: NDArray[np.float64]) -> Surface:
    """A square with a light top and two sides that meet where the rotation turns the edge."""
    inside = (np.abs(u) <= 0.95) & (np.abs(v) <= 0.95)
    edge = 0.8 * np.cos(np.radians(2 * rotation))
    sides = np.where(u < edge, 0.75 - 0.15 * lamp[0], 0.55 + 0.15 * lamp[0])
    return inside, np.where(v < -0.45, 1.05, sides)


def _sphere(u: NDArray[np.float64], v: NDArray[np.float64], rotation: float, lamp: NDArray[np.float64]) -> Surface:
    """A disc lit as a ball; turning it changes nothing."""
    towards = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    return u**2 + v**2 <= 1, 0.4 + 0.75 * np.clip(u * lamp[0] + v * lamp[1] + towards * lamp[2], 0, 1)


def _cylinder(u: NDArray[np.float64], v: NDArray[np.float64], rotation: float, lamp: NDArray[np.float64]) -> Surface:
    """An upright barrel with an elliptic top; turning it changes nothing."""
    bulge = 0.3 * np.sqrt(np.clip(1 - (u / 0.9) ** 2, 0, 1))
    inside = (np.abs(u) <= 0.9) & (v <= 0.7 + bulge) & (v >= -0.7 - bulge)
    barrel = 0.4 + 0.5 * np.sqrt(np.clip(1 - (u / 0.9 - 0.6 * lamp[0]) ** 2, 0, 1))
    return inside, np.where(v <= -0.7 + bulge, 1.05, barrel)


_PAINTERS = {"cube": _cube, "sphere": _sphere, "cylinder": _cylinder}
