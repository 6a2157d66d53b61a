"""VTAB-1k: 19 image classification tasks with 1,000 training images each; Zhai et al. 2019, arXiv:1910.04867.

The final protocol trains on 800 + 200 images and scores the whole test split once; `protocol=select` trains on the 800
and scores the 200, which is where settings are chosen. Which images these are is part of the benchmark:

- `official`: a copy of the benchmark's own lists (folders of images with train800.txt, val200.txt, test.txt, or
  parquet splits of these names);
- `rebuilt`: taken in the order of TensorFlow Datasets, worked out from the row numbers of the original files;
- `resampled`: drawn with a fixed seed where neither is to be had. Not comparable with the other two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from bench.errors import DataError, SettingsError, one_line
from bench.identity import digest
from bench.requirements import require_known
from tasks import vtab_labels
from tasks.images import ImageExamples, ImageFormat, ImageTask, joined
from tasks.metrics.vtab import CLASSES, TEST_EXAMPLES
from tasks.rows import drawn, require_columns
from tasks.sources import files_of
from tasks.tfds_order import CUTS, official_subset, resampled_subset

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from tasks.sources import Source

PROTOCOLS = {"final": ("train800val200", "test"), "select": ("train800", "val200")}
"""Training subset and scored subset."""
OFFICIAL = ("train800", "val200", "test")
"""Splits, or lists, of a copy of the official subsets."""
DUMPS = ("XiN0919/VTAB-1k", "vtab-1k")
"""Folders of a mirror in which copies of the official lists lie."""
HASH_LENGTH = 12

Part = tuple[str, "NDArray[np.int64] | None"]
"""A split of the source, and which of its rows; None for all."""


@dataclass(frozen=True, kw_only=True)
class VtabTask(ImageTask):
    """One task, described by `conf/task/vtab/<name>.yaml`.

    `dump` is the task's folder in copies of the official lists; `order` the data set of `tasks/tfds_order.py` where
    rows are numbered as in the original files; `label_rule` how a class follows from `label_column`. A source without
    a validation or a test split (null) has these cut out of its training split.
    """

    label_rules: ClassVar[Sequence[str]] = (
        "class",
        "clevr_count",
        "clevr_distance",
        "dsprites_location",
        "dsprites_orientation",
        "smallnorb_azimuth",
        "smallnorb_elevation",
    )

    name: str
    dump: str
    label_rule: str
    protocol: str
    validation_split: str | None
    test_split: str | None
    order: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("task.protocol", self.protocol, PROTOCOLS)
        require_known("task.label_rule", self.label_rule, self.label_rules)
        require_known("task.name", self.name, CLASSES)
        if self.order is not None:
            require_known("task.order", self.order, CUTS)
        if self.classes != CLASSES[self.name]:
            raise SettingsError(f"task.classes={self.classes}: VTAB's {self.name} has {CLASSES[self.name]} classes.")
        object.__setattr__(self, "reported_splits", (PROTOCOLS[self.protocol][1],))

    @property
    def local_folders(self) -> Sequence[str]:
        """Where a mirror may hold the task: copies of the official lists first."""
        copies = [f"{dump}/{name}" for dump in DUMPS for name in dict.fromkeys((self.dump, self.name))]
        return (*copies, *super().local_folders)

    @property
    def source_splits(self) -> Sequence[str]:
        """Splits of the files."""
        return [split for split in ("train", self.validation_split, self.test_split) if split is not None]

    def local_splits(self, folder: Path) -> Sequence[str]:
        """The official subsets where the folder holds them, else the splits of the files."""
        return OFFICIAL if files_of(folder, OFFICIAL[0]) else self.source_splits

    def encode(
        self, source: Source, split: str, preprocessor: ImageFormat, max_length: int | None, at_most: int | None
    ) -> ImageExamples:
        """The benchmark's subset for training, or the one that is scored.

        The official lists hold classes already, not the annotations that these follow from. Raises DataError for a test
        split of another size than the benchmark's.
        """
        wanted = PROTOCOLS[self.protocol][0] if split == "train" else split
        how, subsets = self._subsets(source)
        if split == "test" and source.kind != "sample":
            self._require_whole_test(source, subsets["test"])
        reader = replace(self, image_column="image", label_column="label", label_rule="class")
        reader = reader if how == "official" else self
        found = [reader._part(source, part, preprocessor, at_most) for part in subsets[wanted]]
        return joined(found)

    def held_out(self, source: Source) -> tuple[Self, Source]:
        """The benchmark's own way: trained on the 800, scored on the 200."""
        return replace(self, protocol="select"), source

    def subset(self, source: Source) -> str:
        """Which images were taken: official, rebuilt, or resampled with a hash of the rows."""
        return self._subsets(source)[0]

    def labels_of(self, table: pa.Table, where: str) -> NDArray[np.int64]:
        """The class of every row by the benchmark's rule. Raises DataError for annotations that cannot be."""
        if self.label_rule == "class":
            return super().labels_of(table, where)
        require_columns(table, [self.label_column], where)
        try:
            return self._ruled(table.column(self.label_column).to_pylist())
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"The column '{self.label_column}' of the {where}: {one_line(error)}.") from error

    def _ruled(self, values: Sequence[Any]) -> NDArray[np.int64]:
        if self.label_rule == "clevr_count":
            return np.array([vtab_labels.clevr_count(len(row["pixel_coords"])) for row in values], np.int64)
        if self.label_rule == "clevr_distance":
            depths = ([place[2] for place in row["pixel_coords"]] for row in values)
            return np.array([vtab_labels.clevr_distance(found) for found in depths], np.int64)
        rule = getattr(vtab_labels, self.label_rule)
        return np.asarray(rule(np.asarray(values)), np.int64)

    def _require_whole_test(self, source: Source, parts: Sequence[Part]) -> None:
        """Raise DataError if the test split is not as large as the benchmark's."""
        found = sum(source.count(split) if rows is None else len(rows) for split, rows in parts)
        if found != TEST_EXAMPLES[self.name]:
            raise DataError(
                f"VTAB's {self.name} is tested on {TEST_EXAMPLES[self.name]} images; {source.folder} gives {found}."
            )

    def _part(self, source: Source, part: Part, preprocessor: ImageFormat, at_most: int | None) -> ImageExamples:
        split, rows = part
        table = source.read(split)
        rows = np.arange(table.num_rows) if rows is None else rows
        chosen = drawn(len(rows), at_most)
        return self.examples(table, rows if chosen is None else rows[chosen], preprocessor, source, split)

    def _subsets(self, source: Source) -> tuple[str, Mapping[str, Sequence[Part]]]:
        """How the subsets were found, and the parts of each."""
        if source.has(OFFICIAL[0]):
            named = {name: [(name, None)] for name in OFFICIAL}
            return "official", named | {"train800val200": [*named["train800"], *named["val200"]]}
        rebuilt = self._rebuilt(source)
        return ("rebuilt", rebuilt) if rebuilt is not None else self._resampled(source)

    def _rebuilt(self, source: Source) -> Mapping[str, Sequence[Part]] | None:
        """The subsets in TFDS order, where the source holds all rows of the original files."""
        if self.order is None:
            return None
        cut = CUTS[self.order]
        if any(source.count(part.split) != part.size for part in (cut.train, cut.validation, cut.test)):
            return None
        position = _position_of_index(source) if self.order == "dsprites" else None
        return {
            name: [
                (split, rows if position is None else position[rows])
                for split, rows in official_subset(self.order, name).items()
            ]
            for name in ("train800", "val200", "train800val200", "test")
        }

    def _resampled(self, source: Source) -> tuple[str, Mapping[str, Sequence[Part]]]:
        """Rows drawn with a fixed seed; what they leave of the training split is the test set if there is no other."""
        pool = source.count("train")
        validation = None if self.validation_split is None else source.count(self.validation_split)
        try:
            first, second = resampled_subset(pool, validation)
        except ValueError as error:
            raise DataError(
                f"VTAB-1k's {self.name} cannot be taken from {source.folder}: {one_line(error)}."
            ) from error
        train: Part = ("train", first)
        held_out: Part = (self.validation_split or "train", second)
        rest = np.setdiff1d(np.arange(pool), np.concatenate([first, second] if validation is None else [first]))
        test: Part = (self.test_split, None) if self.test_split is not None else ("train", rest)
        chosen = digest({"train": first.tolist(), "validation": second.tolist()})[:HASH_LENGTH]
        return f"resampled {chosen}", {
            "train800": [train],
            "val200": [held_out],
            "train800val200": [train, held_out],
            "test": [test],
        }


def _position_of_index(source: Source) -> NDArray[np.int64]:
    """For every index of the original dSprites file, the row that holds it, told by the five factors."""
    from tasks.generators.dsprites import index_of

    names = ("shape", "scale", "orientation", "x_position", "y_position")
    columns = [f"label_{name}" for name in names]
    table = source.read("train", columns)
    require_columns(table, columns, f"split 'train' in {source.folder}")
    try:
        indices = index_of(*(np.asarray(table.column(column)) for column in columns))
    except ValueError as error:
        raise DataError(f"The factors in {source.folder} are not those of dSprites: {one_line(error)}.") from error
    if len(np.unique(indices)) != len(indices):
        raise DataError(f"{source.folder} does not hold every combination of dSprites' factors once.")
    position = np.empty(len(indices), np.int64)
    position[indices] = np.arange(len(indices))
    return position
