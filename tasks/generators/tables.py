"""Generated rows of VTAB's data sets in the schema of their hub repositories, so that one loader reads both.

Columns and raw labels are the hub's (a smallNORB azimuth is 0, 2, .. 34, a dSprites orientation 0 .. 39, a KITTI label
the list of objects); images are structs of PNG bytes and an empty path. Rows depend on the data set and the split only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from bench.errors import DataError, suggestion
from tasks.generators import clevr, dsprites, kitti, smallnorb, textures
from tasks.vtab_labels import kitti_distance

VERSION = 1
"""Part of a run's identity: changes whenever a pixel or a label changes."""
SEED = 1910
TEXTURE_CLASSES = {
    "cifar100": 100,
    "caltech101": 102,
    "dtd": 47,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
    "svhn": 10,
    "sun397": 397,
    "patch_camelyon": 2,
    "eurosat": 10,
    "resisc45": 45,
    "diabetic_retinopathy": 5,
    "dmlab": 6,
    "cifar10": 10,
}
"""Data sets of an image and a label, whose images are textures, and their numbers of classes."""
TEXTURE_COLUMNS = {"cifar10": ("img", "label"), "cifar100": ("img", "fine_label")}
"""What their hub repositories call image and label where that is not "image" and "label"."""
DEFAULT_ROWS = {"train": 1_000, "validation": 300, "test": 500}
OTHER_ROWS = {
    "clevr": {"train": 1_000, "test": 600},
    "kitti": {"train": 1_000, "validation": 300, "test": 400},
    "dsprites": {"train": 1_800},
    "smallnorb": {"train": 1_000, "test": 1_000},
}
ROWS = dict.fromkeys(TEXTURE_CLASSES, DEFAULT_ROWS) | OTHER_ROWS
"""Rows of every split of every data set."""
GENERATED_TASKS = tuple(ROWS)


def table(task: str, split: str) -> pa.Table:
    """All rows of one split of a data set of GENERATED_TASKS. Raises DataError for another name or split."""
    if task not in ROWS:
        raise DataError(f"No images are generated for '{task}'.{suggestion(task, GENERATED_TASKS)}")
    if split not in ROWS[task]:
        raise DataError(f"The generated {task} has no split '{split}'; it has {', '.join(ROWS[task])}.")
    rng = np.random.default_rng([SEED, GENERATED_TASKS.index(task), list(ROWS[task]).index(split)])
    if task in TEXTURE_CLASSES:
        return _textures(task, ROWS[task][split], rng)
    return _BUILDERS[task](split, ROWS[task][split], rng)


def _textures(task: str, rows: int, rng: np.random.Generator) -> pa.Table:
    """Columns of an image and of its label; classes are as equal as can be."""
    classes = TEXTURE_CLASSES[task]
    image, label = TEXTURE_COLUMNS.get(task, ("image", "label"))
    labels = rng.permutation(np.arange(rows) % classes)
    drawn = textures.images(labels, classes, rng, salt=GENERATED_TASKS.index(task))
    return _table(**{image: _images(drawn), label: _integers(labels)})


def _dsprites(split: str, rows: int, rng: np.random.Generator) -> pa.Table:
    """Columns image, the five factors and index, the position in the original file."""
    indices = rng.choice(dsprites.COUNT, rows, replace=False)
    drawn = dsprites.factors(indices)
    return _table(
        image=_images(255 * dsprites.sprites(indices)),
        label_shape=_integers(drawn.shape),
        label_scale=_integers(drawn.scale),
        label_orientation=_integers(drawn.orientation),
        label_x_position=_integers(drawn.x),
        label_y_position=_integers(drawn.y),
        index=_integers(indices),
    )


def _clevr(split: str, rows: int, rng: np.random.Generator) -> pa.Table:
    """Columns image and objects, a struct with one list per property and one entry per object in each.

    `pixel_coords` and `3d_coords` are lists of [column, row, depth] and [x, y, z]; the others name their property.
    """
    images, scenes = clevr.scenes(rows, rng)
    triples, words = pa.list_(pa.list_(pa.float32())), pa.list_(pa.string())
    fields = {"color": words, "material": words, "shape": words, "size": words, "rotation": pa.list_(pa.float32())}
    fields |= {"3d_coords": triples, "pixel_coords": triples}
    objects = [
        {name: [getattr(drawn, _CLEVR_ATTRIBUTES.get(name, name)) for drawn in scene] for name in fields}
        for scene in scenes
    ]
    return _table(image=_images(images), objects=pa.array(objects, pa.struct(list(fields.items()))))


_CLEVR_ATTRIBUTES = {"3d_coords": "coordinates"}


def _smallnorb(split: str, rows: int, rng: np.random.Generator) -> pa.Table:
    """Columns image_lt and the five factors, azimuth as in the original's files: even numbers of ten degrees."""
    drawn = smallnorb.factors(split, rng.choice(smallnorb.combinations(split), rows, replace=False))
    raw = {**drawn._asdict(), "azimuth": 2 * drawn.azimuth}
    return _table(image_lt=_images(smallnorb.views(drawn)), **{name: _integers(factor) for name, factor in raw.items()})


def _kitti(split: str, rows: int, rng: np.random.Generator) -> pa.Table:
    """Columns image, objects (each with its type and its location in metres) and label_distance, VTAB's class."""
    images, streets = kitti.scenes(rows, rng)
    kind = pa.list_(pa.struct({"type": pa.string(), "location": pa.list_(pa.float32())}))
    objects = [[{"type": drawn.type, "location": drawn.location} for drawn in street] for street in streets]
    labels = [
        kitti_distance([drawn.type for drawn in street], [drawn.location[2] for drawn in street]) for street in streets
    ]
    return _table(
        image=_images(images), objects=pa.array(objects, kind), label_distance=_integers(np.array(labels, np.int64))
    )


_BUILDERS: dict[str, Callable[[str, int, np.random.Generator], pa.Table]] = {
    "clevr": _clevr,
    "kitti": _kitti,
    "dsprites": _dsprites,
    "smallnorb": _smallnorb,
}


def _table(**columns: pa.Array) -> pa.Table:
    return pa.table(columns)


def _integers(values: NDArray[np.int64]) -> pa.Array:
    return pa.array(values, pa.int64())


def _images(images: Iterable[NDArray[np.uint8]]) -> pa.Array:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.array([{"bytes": _png(image), "path": None} for image in images], kind)


def _png(image: NDArray[np.uint8]) -> bytes:
    """A grey (height, width) or RGB (height, width, 3) image; lightly compressed, since it is read once."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
