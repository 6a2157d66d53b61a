"""Scenes placed and seen as CLEVR's are (facebookresearch/clevr-dataset-gen), drawn cheaply as shaded discs and boxes.

Three to ten objects stand on a plane; sizes, shapes, materials, colours and the rules that keep objects apart and
visible are those of the original's `render_images.py`. The camera looks along a fixed direction from a jittered place.
An object is a disc, a square or an upright cylinder of the right size in perspective, drawn far to near.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
"""Least separation of two centres along the camera's right, and along its view, both laid on the plane."""
TRIES = 50
LEAST_VISIBLE_PIXELS = round(200 * WIDTH * HEIGHT / (320 * 240))

CAMERA = np.array([7.5, -6.5, 5.3])
VIEW = -CAMERA / np.linalg.norm(CAMERA)
RIGHT = np.array([-VIEW[1], VIEW[0], 0.0]) * -1 / np.hypot(VIEW[0], VIEW[1])
DOWN = np.cross(VIEW, RIGHT)
FRONT = np.array([VIEW[0], VIEW[1], 0.0]) / np.hypot(VIEW[0], VIEW[1])
CAMERA_JITTER, LAMP_JITTER = 0.5, 1.0


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

    @cached_property
    def pixel_radius(self) -> float:
        """Half the object's width on the image."""
        return FOCAL * SIZES[self.size] / self.pixel_coords[2]


def scenes(count: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[list[SceneObject]]]:
    """`count` images (n, 80, 120, 3) and the objects of each, in the order in which they were placed."""
    drawn = [_scene(int(number), rng) for number in rng.integers(FEWEST, MOST + 1, count)]
    return np.stack([image for image, _ in drawn]), [objects for _, objects in drawn]


def _scene(number: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[SceneObject]]:
    """One scene of `number` objects, all of which can be seen."""
    camera = CAMERA + rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, 3)
    lamp = np.array([-0.5, -0.7, 1.0]) + rng.uniform(-LAMP_JITTER, LAMP_JITTER, 3) * 0.3
    while True:
        objects = _objects(number, camera, rng)
        image, visible_pixels = _draw(objects, lamp / np.linalg.norm(lamp))
        if visible_pixels.min() >= LEAST_VISIBLE_PIXELS:
            return image, objects


def _objects(number: int, camera: NDArray[np.float64], rng: np.random.Generator) -> list[SceneObject]:
    sizes = rng.choice(list(SIZES), number)
    radii = np.array([SIZES[size] for size in sizes])
    places = _places(radii, rng)
    coordinates = np.column_stack([places, radii])
    return [
        SceneObject(
            shape=SHAPES[rng.integers(len(SHAPES))],
            size=str(size),
            material=MATERIALS[rng.integers(len(MATERIALS))],
            color=list(COLOURS)[rng.integers(len(COLOURS))],
            rotation=float(rng.uniform(0, 360)),
            coordinates=(float(centre[0]), float(centre[1]), float(centre[2])),
            pixel_coords=_project(centre - camera),
        )
        for size, centre in zip(sizes, coordinates, strict=True)
    ]


def _places(radii: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Places (n, 2) on the plane that keep all rules; starts over where 50 tries find none for the next object."""
    axes = np.column_stack([RIGHT[:2], FRONT[:2]])  # a rotation, so that it keeps distances
    while True:
        places = np.empty_like(radii, shape=(len(radii), 2))
        for placed, radius in enumerate(radii):
            tries = rng.uniform(-REACH, REACH, (TRIES, 2)) @ axes
            right, front = (np.abs(tries[:, None, axis] - places[:placed, axis]) for axis in (0, 1))
            clear = right**2 + front**2 >= (GAP + radius + radii[:placed]) ** 2
            allowed = (clear & (right >= MARGIN) & (front >= MARGIN)).all(axis=1)
            if not allowed.any():
                break
            places[placed] = tries[allowed.argmax()]
        else:
            return places @ axes.T


def _project(offset: NDArray[np.float64]) -> tuple[float, float, float]:
    """Column, row and depth of a point given relative to the camera."""
    depth = float(offset @ VIEW)
    return WIDTH / 2 + FOCAL * float(offset @ RIGHT) / depth, HEIGHT / 2 + FOCAL * float(offset @ DOWN) / depth, depth


def _draw(objects: list[SceneObject], lamp: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The image, and how many of its pixels show each object."""
    ground = np.linspace(150, 185, HEIGHT)[:, None] + np.linspace(-12, 12, WIDTH) * lamp[0]
    image = np.repeat(ground[..., None], 3, axis=-1)
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
    top, left = max(0, int(row - 1.5 * radius)), max(0, int(column - 1.5 * radius))
    window = np.s_[top : int(row + 1.5 * radius) + 2, left : int(column + 1.5 * radius) + 2]
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
