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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.leaderboard.boards import Boards, Sources
from bench.leaderboard.documents import documents
from bench.leaderboard.files import as_csv
from bench.leaderboard.index import Index
from bench.parallel import in_processes
from bench.records.store import Store

FOLDER = "boards"
TEXTS = "texts"
CODE = (Path(__file__).parent, Path(__file__).parents[1] / "stats", Path(__file__).parents[2] / "tasks" / "metrics")
"""Where the code lies that computes boards."""
MANY = 10_000
"""Runs in groups without boards that are worth the start of further processes."""
LIBRARIES = ("numpy", "pandas", "scipy")
UNREADABLE = (OSError, ValueError, pa.ArrowException)
"""What a file raises that is not there or damaged."""


@dataclass(frozen=True)
class Part:
    """What the boards of one group say, by the name of their file, and the folder that they are kept in."""

    texts: Mapping[str, str]
    sources: Callable[[], Sources]
    folder: Path

    @property
    def boards(self) -> Boards:
        """The boards themselves."""
        try:
            return Boards(*(_read(self.folder / table.name) for table in fields(Boards)))
        except UNREADABLE:
            return Boards.of(self.sources())

    @classmethod
    def of(cls, sources: Callable[[], Sources], folder: Path) -> Part:
        """The part that is kept in a folder; computed and written down if it is not there or cannot be read."""
        try:
            texts = _table(folder / TEXTS)
            return cls(dict(zip(texts["name"].to_pylist(), texts["text"].to_pylist(), strict=True)), sources, folder)
        except UNREADABLE:
            return cls(_make((sources(), folder)), sources, folder)


def parts(results: Path, index: Index) -> dict[str, Part]:
    """The boards of each group of complete runs, by its name, in the order of the names."""
    lost = index.lost
    parts = dict[str, tuple[Callable[[], Sources], Path]]()
    missing_runs = 0
    for group, files in index.files.items():
        of_group = lost[lost["group"] == group]
        folder = results / FOLDER / f"{group}-{_digest(files, of_group)}"
        parts[group] = functools.partial(_sources, index, group, of_group), folder
        missing_runs += 0 if folder.exists() else len(files)
    if missing_runs >= MANY:
        in_processes(_make, [(sources(), folder) for sources, folder in parts.values() if not folder.exists()])
    _clear(results / FOLDER, {folder.name for _, folder in parts.values()})
    return {group: Part.of(sources, folder) for group, (sources, folder) in parts.items()}


def _make(part: tuple[Sources, Path]) -> Mapping[str, str]:
    """Compute the boards of a group and keep them in a folder, if it can be written; returns their texts."""
    sources, folder = part
    boards = Boards.of(sources)
    tables = {f"{name}.csv": as_csv(table) for name, table in boards.tables.items() if len(table)}
    texts = tables | documents(boards.rows, boards.lost)
    with contextlib.suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)
        _keep(boards, texts, folder)
    return texts


def _sources(index: Index, group: str, lost: pd.DataFrame) -> Sources:
    """The runs of a group; its boards are made without the trials."""
    runs = index.runs_of(group)
    return Sources(runs, runs.head(0), Store(index.results).root, lost)


def _digest(files: pa.Table, lost: pd.DataFrame) -> str:
    """A hash of a group's records, of what it lost, and of the code."""
    found = hashlib.sha256(_code())
    found.update(lost[["folder", "seed", "status"]].to_csv().encode())
    found.update("\n".join(files["folder"].to_pylist()).encode())
    for name in ("size", "modified_ns"):
        found.update(files[name].to_numpy().tobytes())
    return found.hexdigest()[:16]


@functools.cache
def _code() -> bytes:
    """A hash of everything that decides what boards are computed from the same records."""
    sources = [file for folder in CODE for file in sorted(folder.rglob("*.py"))]
    versions = " ".join(version(library) for library in LIBRARIES)
    return hashlib.sha256(b"\0".join([versions.encode(), *(file.read_bytes() for file in sources)])).digest()


def _keep(boards: Boards, texts: Mapping[str, str], folder: Path) -> None:
    """Write everything down at once, as a folder that is not there yet."""
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as name:
        temporary = Path(name) / folder.name
        temporary.mkdir()
        for table in fields(boards):
            _write(getattr(boards, table.name), temporary / table.name)
        _write(pd.DataFrame(texts.items(), columns=["name", "text"]), temporary / TEXTS)
        temporary.rename(folder)


def _clear(folder: Path, kept: set[str]) -> None:
    """Remove the parts of records that have changed since or are gone."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name not in kept and not name.startswith("."):
                shutil.rmtree(folder / name, ignore_errors=True)


def _write(table: pd.DataFrame, file: Path) -> None:
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file, write_page_checksum=True)


def _read(file: Path) -> pd.DataFrame:
    return _table(file).to_pandas()


def _table(file: Path) -> pa.Table:
    return pq.ParquetFile(file, page_checksum_verification=True).read()
