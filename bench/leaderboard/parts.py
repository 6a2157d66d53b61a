"""The boards of each group, kept on disk, so that only groups whose records changed are computed again.

`boards/GROUP-DIGEST/` in the results folder holds the tables of a group and the texts of its files, as parquet with
checksums. The digest is one of the group's records and of the code that computes boards. The folder can be removed at
any time, and what is damaged in it counts as missing. Predictions do not change without their record; where some were
removed, the tests that were made with them stand until then.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.index import Index
from bench.leaderboard.boards import Boards, Sources
from bench.leaderboard.documents import documents
from bench.leaderboard.files import as_csv
from bench.store import Store

FOLDER = "boards"
TEXTS = "texts"
CODE = (Path(__file__).parent, Path(__file__).parents[2] / "tasks" / "metrics")
"""Where the code lies that computes boards."""
LIBRARIES = ("numpy", "pandas", "scipy")


@dataclass(frozen=True)
class Part:
    """The boards of one group, and the texts that they make, by the name of their file."""

    boards: Boards
    texts: Mapping[str, str]

    @classmethod
    def of(cls, sources: Sources) -> Part:
        """The part computed from nothing."""
        boards = Boards.of(sources)
        texts = {f"{name}.csv": as_csv(table) for name, table in boards.tables.items() if len(table)}
        return cls(boards, texts | documents(boards.rows))

    @classmethod
    def read(cls, folder: Path) -> Part | None:
        """The part in a folder; None if it is not there or cannot be read."""
        try:
            boards = Boards(*(_read(folder / table.name) for table in fields(Boards)))
            return cls(boards, dict(_read(folder / TEXTS).itertuples(index=False)))
        except (OSError, ValueError, pa.ArrowException):
            return None

    def write(self, folder: Path) -> None:
        """Write the part as a folder, unless that is there."""
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as name:
            temporary = Path(name) / folder.name
            temporary.mkdir()
            for table in fields(Boards):
                _write(getattr(self.boards, table.name), temporary / table.name)
            _write(pd.DataFrame(self.texts.items()), temporary / TEXTS)
            temporary.rename(folder)


def parts(results: Path, index: Index) -> dict[str, Part]:
    """The boards of each group of complete runs, by its name, in the order of the names."""
    runs, nothing, root = index.runs, index.trials.head(0), Store(results).root
    folders = {group: results / FOLDER / f"{group}-{digest}" for group, digest in _digests(index.files).items()}
    found: dict[str, Part] = {}
    for group, own in runs.groupby("group", sort=True):
        folder = folders[str(group)]
        part = Part.read(folder)
        if part is None:
            part = Part.of(Sources(own, nothing, root))
            with contextlib.suppress(OSError):
                shutil.rmtree(folder, ignore_errors=True)
                part.write(folder)
        found[str(group)] = part
    _clear(results / FOLDER, {folder.name for folder in folders.values()})
    return found


def _digests(files: pd.DataFrame) -> dict[str, str]:
    """Of each group a hash of its records and of the code."""
    hashes = pd.util.hash_pandas_object(files, index=False).groupby(files["group"])
    return {
        str(group): hashlib.sha256(_code() + of_group.to_numpy().tobytes()).hexdigest()[:16]
        for group, of_group in hashes
    }


@functools.cache
def _code() -> bytes:
    """A hash of everything that decides what boards are computed from the same records."""
    sources = [file for folder in CODE for file in sorted(folder.rglob("*.py"))]
    versions = " ".join(version(library) for library in LIBRARIES)
    return hashlib.sha256(b"\0".join([versions.encode(), *(file.read_bytes() for file in sources)])).digest()


def _clear(folder: Path, kept: set[str]) -> None:
    """Remove the parts of records that have changed since or are gone."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name not in kept and not name.startswith("."):
                shutil.rmtree(folder / name, ignore_errors=True)


def _write(table: pd.DataFrame, file: Path) -> None:
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file, write_page_checksum=True)


def _read(file: Path) -> pd.DataFrame:
    return pq.ParquetFile(file, page_checksum_verification=True).read().to_pandas()
