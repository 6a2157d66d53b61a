"""Image classification: images decoded and resized once, kept as bytes, normalised on the device.

The whole image is resized to the model's own size, bilinear with antialiasing, without crop and without augmentation:
what the Visual Task Adaptation Benchmark does (Zhai et al. 2019, arXiv:1910.04867) for every task alike.
"""

from __future__ import annotations

import functools
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench import cache
from bench.errors import DataError, one_line
from bench.hardware import usable_cores
from bench.identity import digest
from tasks.base import Scores, StoredTask
from tasks.batch import ImageBatch
from tasks.rows import Columns, class_names, drawn, require_between, require_columns, require_numbers

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from tasks.base import Examples
    from tasks.sources import Source

CHANNELS = 3
CACHE_VERSION = 1


@dataclass(frozen=True)
class ImageFormat:
    """What a vision model reads: `size` x `size` pixels, each channel less `mean`, by `std`, both of a 0..1 scale."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ImageExamples:
    """Images of one size, `pixels` (examples, height, width, channels) as bytes; `labels` and `ids` (examples,)."""

    pixels: NDArray[np.uint8]
    format: ImageFormat
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    columns: Columns = field(default_factory=dict)
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """All images have one size."""
        return np.ones(len(self), np.int64)

    @functools.cached_property
    def loss_terms(self) -> NDArray[np.int64]:
        """One for each image: its label."""
        return np.ones(len(self), np.int64)

    def batch(self, indices: NDArray[np.int64]) -> ImageBatch:
        """The images at `indices`, channels first, still as bytes."""
        import torch

        pixels = torch.from_numpy(self.pixels[indices]).permute(0, 3, 1, 2).contiguous()
        inputs = {"pixel_values": pixels, "labels": torch.from_numpy(self.labels[indices])}
        return ImageBatch(inputs, len(indices), 0, self.format.mean, self.format.std)

    def question(self, indices: NDArray[np.int64]) -> ImageBatch:
        """The same in evaluation."""
        return self.batch(indices)


@dataclass(frozen=True, kw_only=True)
class ImageTask(StoredTask):
    """Images with one class each, scored by accuracy; described by a YAML in `conf/task`."""

    kind: ClassVar[str] = "image_classification"
    headline: ClassVar[str] = "accuracy"

    image_column: str
    label_column: str
    classes: int
    max_length: None
    epochs: float
    generated: str | None = None
    """Generator of the built-in sample; null where the sample is a file or there is none."""

    @property
    def outputs(self) -> int:
        """Classes."""
        return self.classes

    def encode(
        self, source: Source, split: str, preprocessor: ImageFormat, max_length: int | None, at_most: int | None
    ) -> Examples:
        """One split, decoded and resized, or found in this machine's cache."""
        table = source.read(split)
        rows = drawn(table.num_rows, at_most)
        rows = np.arange(table.num_rows) if rows is None else rows
        return self.examples(table, rows, preprocessor, source, split)

    def examples(
        self, table: pa.Table, rows: NDArray[np.int64], preprocessor: ImageFormat, source: Source, split: str
    ) -> ImageExamples:
        """The rows of a table as images with labels; a row's position in the table is its id."""
        where = f"split '{split}' in {source.folder}"
        require_columns(table, [self.image_column], where)
        labels = self.labels_of(table, where)[rows]
        require_between(labels, self.classes - 1, where)
        what = {"source": source.revision, "repository": self.repository, "config": self.config, "split": split}
        what["column"] = self.image_column
        pixels = _cached(
            what | {"size": preprocessor.size, "rows": rows.tolist(), "version": CACHE_VERSION},
            table.column(self.image_column),
            rows,
            preprocessor.size,
            where,
        )
        return ImageExamples(pixels, preprocessor, labels, rows)

    def labels_of(self, table: pa.Table, where: str) -> NDArray[np.int64]:
        """The class of every row. Raises DataError for another number of named classes."""
        require_columns(table, [self.label_column], where)
        names = class_names(table, self.label_column)
        if names is not None and len(names) != self.classes:
            raise DataError(f"The {where} has {len(names)} classes; the task declares {self.classes}.")
        require_numbers(table, self.label_column, where)
        return np.asarray(table.column(self.label_column), np.int64)

    def predict(self, answers: NDArray[np.float32], examples: Examples) -> Columns:
        """The class of the largest logit, the lowest id among equals."""
        return {"prediction": answers.argmax(axis=1), "scores": list(answers)}

    def score(self, predictions: Mapping[str, Columns], examples: Mapping[str, Examples]) -> Scores:
        """Accuracy, and beside it that of the most frequent class, which shows a collapse."""
        (split,) = predictions
        labels = examples[split].labels
        accuracy = float(np.mean(np.asarray(predictions[split]["prediction"]) == labels))
        return Scores(
            100 * accuracy, {"accuracy": accuracy, "majority_share": float(np.bincount(labels).max() / len(labels))}
        )


def joined(parts: Sequence[ImageExamples]) -> ImageExamples:
    """Several sets of images as one."""
    if len(parts) == 1:
        return parts[0]
    pixels, labels, ids = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("pixels", "labels", "ids")
    )
    return ImageExamples(pixels, parts[0].format, labels, ids)


def _cached(
    key: Mapping[str, Any], images: pa.ChunkedArray, rows: NDArray[np.int64], size: int, where: str
) -> NDArray[np.uint8]:
    """Pixels (rows, size, size, 3) under this key, memory-mapped; made where they are not there yet."""
    file = cache.FOLDER / "images" / f"{digest(key)}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, suffix=".part") as folder:
            part = Path(folder) / file.name
            _decode(images, rows, size, where, part)
            os.replace(part, file)
    return np.load(file, mmap_mode="r")


def _decode(images: pa.ChunkedArray, rows: NDArray[np.int64], size: int, where: str, file: Path) -> None:
    """Decode and resize into an .npy file, never holding all pixels; Pillow lets several threads do so at once.

    Images are taken one by one: Arrow cannot put more than 2 GiB of them together. Raises DataError for a broken one.
    """
    pixels = np.lib.format.open_memmap(file, "w+", np.uint8, (len(rows), size, size, CHANNELS))

    def one(position: int) -> None:
        row = int(rows[position])
        try:
            pixels[position] = resized(images[row].as_py(), size)
        except (OSError, TypeError, KeyError, ValueError, SyntaxError) as error:  # Pillow's word for a broken PNG
            raise DataError(f"Image {row} of the {where} cannot be read: {one_line(error)[:200]}") from error

    with ThreadPoolExecutor(usable_cores()) as threads:
        for _ in threads.map(one, range(len(rows))):
            pass


def resized(stored: Mapping[str, Any], size: int) -> NDArray[np.uint8]:
    """An image as the hub stores it ({bytes, path}) as RGB bytes (size, size, 3)."""
    from PIL import Image

    content = stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image = image.convert("RGB")
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
