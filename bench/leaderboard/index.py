"""What the records under a results folder say, kept in one file so that only new and changed records are read.

`index.parquet` holds one row per record file: where it is, its size and time of change, its status and run id, and the
columns that the boards use; or why it cannot be read. A record whose size or time of change differs is read again, one
that is gone is dropped. The file can always be rebuilt from the records, and is, wherever it is missing, damaged or
written for other columns. Of several processes that refresh it at once the last one wins, and what it did not see is
found by the next.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.files import replacing
from bench.identity import ID_LENGTH
from bench.leaderboard import columns as board_columns
from bench.leaderboard.columns import COLUMNS, DERIVED, board_values
from bench.parallel import in_processes
from bench.records.schema import READABLE_VERSIONS, TYPES, RecordError, columns
from bench.records.store import RECORD_FILE, Store

if TYPE_CHECKING:
    import pandas as pd

INDEX_FILE = "index.parquet"
LOST = ("diverged", "failed", "out_of_memory")
"""How a run can end for good without a score; one that was interrupted goes on."""
NEVER = -1
"""The size noted for a file that the system refused: it has another one, so the file is tried again."""
NO_FOLDER = (FileNotFoundError, NotADirectoryError)
AT_ONCE = 2000
"""Rows that are held as Python objects, which cost the garbage collector time."""
WORTH_WRITING = 0.01
"""Share of the rows: to write them all takes as long as to read this many records once more."""
MANY = 10_000
"""Files that are worth the start of further processes."""

RecordFile = tuple[str, int, int, str | None]
"""A record file as the file system sees it: folder, size, nanoseconds of its change, and why it cannot be looked at."""


def _schema() -> pa.Schema:
    """The index's columns; their metadata changes with whatever decides how a record is read."""
    arrow = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    types = TYPES | DERIVED
    files = [("folder", str), ("size", int), ("modified_ns", int), ("unreadable", str)]
    recorded = [(name, (get_args(types[name]) or (types[name],))[0]) for name in ("status", "run_id", *COLUMNS)]
    fields = [(name, arrow[kind]) for name, kind in files + recorded]
    return pa.schema(fields, metadata={"reading": _reading(__file__, board_columns.__file__)})


def _reading(*sources: str) -> str:
    """Hash of what makes a record's row: these modules' source, and the schema of records."""
    found = hashlib.sha256(repr((READABLE_VERSIONS, TYPES)).encode())
    for source in sources:
        found.update(Path(source).read_bytes())
    return found.hexdigest()


SCHEMA = _schema()
FILE_SCHEMA = pa.schema([SCHEMA.field(name) for name in ("folder", "size", "modified_ns", "unreadable")])
OF_RUNS = ["folder", *COLUMNS]
AS_WRITTEN = {"use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
FLOATS = [name for name, kind in DERIVED.items() if kind is float]
"""Of the columns that may come from settings, those of numbers."""
INTEGERS = [name for name in COLUMNS if SCHEMA.field(name).type == pa.int64()]


@dataclass(frozen=True)
class Index:
    """All records under a results folder as they were when it was refreshed.

    Run folders are named by their path below the store's root, with forward slashes.
    """

    results: Path
    table: pa.Table

    @classmethod
    def refreshed(cls, results: Path) -> Index:
        """The index as of now; it is written down if enough changed and the folder can be written."""
        root = str(Store(results).root)
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(_stored, results / INDEX_FILE)
            files = _record_files(root)
        stored = reading.result()
        table, changed = _up_to_date(stored, root, files)
        if changed > len(stored) * WORTH_WRITING:
            with contextlib.suppress(OSError), replacing(results / INDEX_FILE) as temporary:
                pq.write_table(table, temporary, **AS_WRITTEN)
        return cls(results, table)

    @property
    def runs(self) -> pd.DataFrame:
        """Complete records but those of trials, with the columns that the boards use, in the order of their folders."""
        return self._runs.select(OF_RUNS).to_pandas()

    @property
    def trials(self) -> pd.DataFrame:
        """Complete records of trials, likewise."""
        return self._complete(held_out=True).select(OF_RUNS).to_pandas()

    @property
    def lost(self) -> pd.DataFrame:
        """Records of runs that ended for good without a score, likewise, with `status`; not of trials."""
        wanted = pc.and_(pc.is_in(self.table["status"], pa.array(LOST)), pc.invert(self.table["held_out"]))
        return self.table.filter(wanted).select([*OF_RUNS, "status"]).to_pandas()

    @property
    def files(self) -> dict[str, pa.Table]:
        """The record files of `runs` by group, in their order: folder, size and time of change in nanoseconds."""
        files = self._runs.select(["group", "folder", "size", "modified_ns"])
        names = pc.unique(files["group"]).sort()
        return {name: files.filter(pc.equal(files["group"], name)) for name in names.to_pylist()}

    def runs_of(self, group: str) -> pd.DataFrame:
        """The runs of one group, likewise."""
        return self._runs.filter(pc.equal(self._runs["group"], group)).select(OF_RUNS).to_pandas()

    @property
    def groups(self) -> pd.DataFrame:
        """The first of the runs of each group, in the order of the groups' names."""
        of_runs = self._runs["group"]
        first = pc.index_in(pc.unique(of_runs).sort(), of_runs)
        return self._runs.take(first).select(OF_RUNS).to_pandas()

    @functools.cached_property
    def _runs(self) -> pa.Table:
        return self._complete(held_out=False)

    def _complete(self, held_out: bool) -> pa.Table:
        wanted = pc.and_(pc.equal(self.table["status"], "complete"), pc.equal(self.table["held_out"], held_out))
        return self.table.filter(wanted)

    @property
    def statuses(self) -> dict[str, str]:
        """Status of each readable record by its folder."""
        return self._readable("status")

    @property
    def run_ids(self) -> dict[str, str]:
        """Run id of each readable record by its folder."""
        return self._readable("run_id")

    @property
    def held_out(self) -> dict[str, str]:
        """Run id of each readable record of a trial, however it ended, by its folder."""
        rows = self.table.filter(pc.fill_null(self.table["held_out"], False))
        return dict(zip(rows["folder"].to_pylist(), rows["run_id"].to_pylist(), strict=True))

    @property
    def unreadable(self) -> list[tuple[Path, str]]:
        """Records that do not count, and why."""
        rows = self.table.filter(pc.is_valid(self.table["unreadable"]))
        root = Store(self.results).root
        paths = [root / folder / RECORD_FILE for folder in rows["folder"].to_pylist()]
        return list(zip(paths, rows["unreadable"].to_pylist(), strict=True))

    def missing(self, folders: Iterable[Path]) -> list[Path]:
        """Those of these run folders (`Store.folder`) that hold no complete record."""
        root = os.path.abspath(Store(self.results).root)
        complete = {f"{root}/{folder}" for folder, status in self.statuses.items() if status == "complete"}
        return [folder for folder in folders if os.path.abspath(folder) not in complete]

    def _readable(self, column: str) -> dict[str, str]:
        rows = self.table.filter(pc.is_null(self.table["unreadable"]))
        return dict(zip(rows["folder"].to_pylist(), rows[column].to_pylist(), strict=True))


def _stored(file: Path) -> pa.Table:
    """The index on disk; an empty one where there is none or it cannot be used."""
    with contextlib.suppress(Exception):  # whatever is wrong with it, it can be rebuilt
        table = pq.ParquetFile(file, page_checksum_verification=True).read()
        if table.schema.equals(SCHEMA, check_metadata=True):
            return table
    return SCHEMA.empty_table()


def _up_to_date(stored: pa.Table, root: str, files: Sequence[RecordFile]) -> tuple[pa.Table, int]:
    """One row per record file as it is now, and how many of them came, changed or went."""
    found = pa.table([[file[place] for file in files] for place in range(len(FILE_SCHEMA))], schema=FILE_SCHEMA)
    places = pc.index_in(found["folder"], stored["folder"])
    known = stored.select(["size", "modified_ns"]).take(places)
    same = pc.and_(*(pc.equal(found[name], known[name]) for name in known.column_names)).fill_null(False)
    new = np.flatnonzero(~same.to_numpy(zero_copy_only=False)).tolist()
    changed = len(new) + len(stored) - (len(places) - places.null_count)
    if not changed:
        return stored, changed
    read = pa.concat_tables([SCHEMA.empty_table(), *_read(root, [files[number] for number in new])])
    there = found["folder"].filter(pc.or_(same, pc.is_in(found["folder"], read["folder"].combine_chunks())))
    rows = pa.concat_tables([read, stored])  # of a record that changed, the new row comes first
    return rows.take(pc.index_in(there, rows["folder"])).combine_chunks(), changed


def _read(root: str, files: Sequence[RecordFile]) -> list[pa.Table]:
    """The rows of record files, without those that are gone by now; of very many in several processes."""
    batches = [files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE)]
    rows = functools.partial(_rows, root)
    return list(in_processes(rows, batches) if len(files) >= MANY else map(rows, batches))


def _rows(root: str, files: Sequence[RecordFile]) -> pa.Table:
    """One row per file, without those that are gone by now."""
    rows = [values for values in (_values(root, file) for file in files) if values is not None]
    if not rows:
        return SCHEMA.empty_table()
    arrays = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    return pa.table(arrays, schema=SCHEMA)


def _record_files(root: str) -> list[RecordFile]:
    """Those below `root`, in the order of their folders' names, level by level."""
    found: list[RecordFile] = []
    _look_for_records(root, "", found)
    return found


def _look_for_records(root: str, parent: str, found: list[RecordFile]) -> None:
    """Add the record file of a folder, or else those below it.

    A folder whose name begins with `.` or holds `~` is work in progress or set aside; links are not followed.
    """
    try:
        names = os.listdir(f"{root}/{parent}")
    except NO_FOLDER:
        return
    except OSError as error:
        found.append((parent, NEVER, NEVER, f"the folder cannot be listed: {error.strerror}"))
        return
    if RECORD_FILE in names and _noted(root, parent, found):
        return
    for name in sorted(names):
        if name[0] == "." or "~" in name:
            continue
        folder = f"{parent}/{name}" if parent else name
        if len(name) == ID_LENGTH and _noted(root, folder, found):
            continue  # most are runs, and need not be listed
        if not os.path.islink(f"{root}/{folder}"):
            _look_for_records(root, folder, found)


def _noted(root: str, folder: str, found: list[RecordFile]) -> bool:
    """Add a folder's record file; False if it has none."""
    try:
        status = os.stat(f"{root}/{folder}/{RECORD_FILE}")
    except NO_FOLDER:
        return False
    except OSError as error:
        found.append((folder, NEVER, NEVER, f"the folder cannot be searched: {error.strerror}"))
    else:
        found.append((folder, status.st_size, status.st_mtime_ns, None))
    return True


def _values(root: str, file: RecordFile) -> tuple[Any, ...] | None:
    """The index's row of a record file; None if it is gone by now, or lies in another folder that a link leads to."""
    folder, size, modified_ns, unreadable = file
    if os.path.islink(f"{root}/{folder}"):
        return None
    if unreadable is None:
        try:
            with open(f"{root}/{folder}/{RECORD_FILE}", "rb", buffering=0) as text:
                return (*file, *_of_record(columns(text.read())))
        except FileNotFoundError:
            return None
        except OSError as error:
            size, unreadable = NEVER, error.strerror or str(error)
        except RecordError as error:
            unreadable = str(error)
    return (folder, size, modified_ns, unreadable, *[None] * (len(SCHEMA) - len(file)))


def _of_record(record: Any) -> list[Any]:
    """Status, run id and board columns. Raises RecordError for what the index cannot hold."""
    try:
        values = board_values(record)
        values |= {name: _as_float(values[name]) for name in FLOATS}
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise RecordError(f"the boards' columns do not follow from it: {type(error).__name__}: {error}") from error
    for name in INTEGERS:
        if (values[name] or 0).bit_length() > 63:
            raise RecordError(f"{name} is {values[name]}, which does not fit into 64 bits")
    return [record.status, record.run_id, *values.values()]


def _as_float(value: Any) -> float | None:
    """Settings are not checked when a record is read. Raises TypeError for what is no number."""
    if value is None or type(value) in (float, int):
        return None if value is None else float(value)
    raise TypeError(f"{value!r} is no number")
