"""Where task data is read from: a mirror folder, the hub (or its cache), or the built-in samples.

All three are the same layout, the hub's: `<root>/<repository>/<config>/<split>-*.parquet`. Which one was used, and the
revision or content hash of the files, is part of a run's identity.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import DataError, one_line

if TYPE_CHECKING:
    import pyarrow as pa


LIST = ".txt"
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)")
TRAIN_SPLIT = "train"


@dataclass(frozen=True)
class Source:
    """A folder of parquet files for one task.

    `kind` is "mirror", "hub" or "sample"; `revision` the hub's commit, or the SHA-256 of the files' contents;
    `reason` says why this source was taken where the choice was automatic.
    """

    kind: str
    folder: Path
    revision: str
    reason: str

    def of(self, config: str) -> Source:
        """The same source's data of another config of the repository."""
        return replace(self, folder=self.folder.parent / config)

    def has(self, split: str) -> bool:
        """Whether there are files of a split."""
        return any(files_of(self.folder, split))

    def count(self, split: str) -> int:
        """Rows of a split; 0 where there is none. Raises DataError if it is unreadable."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = files_of(self.folder, split)
        if any(file.suffix == LIST for file in files):
            return sum(1 for file in files for _ in _lines(file))
        try:
            return sum(pq.read_metadata(file).num_rows for file in files)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(split, error) from error

    def _unreadable(self, split: str, error: Exception) -> DataError:
        return DataError(f"{self.folder}/{split}-*.parquet cannot be read: {one_line(error)[:200]}")

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one split, all columns or some. Raises DataError if it is missing, unreadable or empty."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = files_of(self.folder, split)
        if not files:
            raise DataError(f"{self.folder} has no parquet file of the split '{split}' ({split}-*.parquet).")
        if files[0].suffix == LIST:
            return _listed(files[0])
        try:
            table = pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(split, error) from error
        if table.num_rows == 0:
            raise DataError(f"The split '{split}' in {self.folder} has no rows.")
        return table


class GeneratedSource(Source):
    """Images that are drawn when they are asked for, in the schema of the hub; `folder` names the generator."""

    def of(self, config: str) -> Source:
        """There is one config."""
        return self

    def has(self, split: str) -> bool:
        """Whether this split is generated."""
        from tasks.generators.tables import ROWS

        return split in ROWS.get(self.folder.name, {})

    def count(self, split: str) -> int:
        """Rows of a split; 0 where there is none."""
        from tasks.generators.tables import ROWS

        return ROWS.get(self.folder.name, {}).get(split, 0)

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one split; images are drawn once per process."""
        return _generated(self.folder.name, split)


@functools.lru_cache(maxsize=4)
def _generated(name: str, split: str) -> pa.Table:
    from tasks.generators.tables import table

    return table(name, split)


def files_of(folder: Path, split: str) -> list[Path]:
    """The files of a split: parquet as on the hub, or a list of image files ("path label" in every line)."""
    listed = folder / f"{split}{LIST}"
    return sorted(folder.glob(f"{split}-*.parquet")) or ([listed] if listed.is_file() else [])


def missing_shards(files: Iterable[Path]) -> list[str]:
    """Shards that the names of others count ("train-00000-of-00002") and that are not among the files."""
    found: dict[tuple[str, str], set[int]] = {}
    for file in files:
        if shard := SHARD.match(file.name):
            split, number, count = shard.groups()
            found.setdefault((split, count), set()).add(int(number))
    return [
        f"{split}-{number:05}-of-{count}"
        for (split, count), numbers in found.items()
        for number in range(int(count))
        if number not in numbers
    ]


def listed_sizes(file: Path) -> list[int]:
    """Bytes of every image that a list names, in its order; -1 where there is none."""
    sizes = []
    for line in _lines(file):
        try:
            sizes.append(os.stat(f"{file.parent}/{line.rpartition(' ')[0]}").st_size)
        except OSError:
            sizes.append(-1)
    return sizes


def _lines(file: Path) -> Iterable[str]:
    return filter(None, map(str.strip, file.read_text("utf-8").splitlines()))


def _listed(file: Path) -> pa.Table:
    """A list of image files as a table of paths and labels. Raises DataError for a line that is neither."""
    import pyarrow as pa

    images, labels = [], []
    folder = Path(os.path.abspath(file.parent))
    for line in _lines(file):
        name, _, label = line.rpartition(" ")
        image = Path(os.path.normpath(folder / name))  # which may be a link to somewhere else
        if not label.isdigit() or not image.is_relative_to(folder):
            raise DataError(f"{file}: the line '{line[:100]}' is no relative image path and a label.")
        images.append({"bytes": None, "path": str(image)})
        labels.append(int(label))
    if not images:
        raise DataError(f"{file} lists no images.")
    stored = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.table({"image": pa.array(images, stored), "label": labels})
