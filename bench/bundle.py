"""Many runs in two compact files, to publish them or hand them on: `records.parquet` and `predictions.parquet`.

A bundle keeps what boards need: each record as JSON with its training curve, and of the predictions the columns that
the headline metric follows from. Adapters, generated texts and the machine's own paths stay behind.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.errors import DataError, one_line
from bench.leaderboard.outcomes import PREDICTIONS_FILE
from bench.schema import decode, plain
from bench.store import RECORD_FILE, Store

PUBLISHED = "published"
"""Folder in a results folder that may hold a bundle of runs, which then stand on its boards."""
RECORDS_FILE = "records.parquet"
HISTORY_FILE = "history.jsonl"
RECORDS = pa.schema([("run_id", pa.string()), ("record", pa.string()), ("history", pa.string())])
PREDICTIONS = pa.schema(
    [
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("id", pa.int64()),
        ("label", pa.float64()),
        ("prediction", pa.float64()),
        ("correct_strict", pa.bool_()),
        ("question", pa.int64()),
    ]
)
LOCAL_SETTINGS = {("data", "root"): None, ("results", "dir"): "results"}
"""Paths of the machine that a run was done on, and what stands in their place."""
COMPRESSION = {"compression": "zstd", "compression_level": 19}


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle."""
    return (folder / RECORDS_FILE).is_file()


def pack(run_folders: Iterable[Path], bundle: Path) -> int:
    """Write the runs in these folders as a bundle, in the order of their ids; returns how many there are."""
    folders = sorted(run_folders, key=lambda folder: folder.name)
    records = [(folder.name, _without_paths(folder / RECORD_FILE), _text(folder / HISTORY_FILE)) for folder in folders]
    predictions = [_compact(folder) for folder in folders]
    bundle.mkdir(parents=True, exist_ok=True)
    columns = [list(column) for column in zip(*records, strict=True)] if records else [[], [], []]
    pq.write_table(pa.table(columns, schema=RECORDS), bundle / RECORDS_FILE, **COMPRESSION)
    pq.write_table(
        pa.concat_tables(predictions or [PREDICTIONS.empty_table()]), bundle / PREDICTIONS_FILE, **COMPRESSION
    )
    return len(folders)


def run_ids(bundle: Path) -> list[str]:
    """Ids of the runs of a bundle; none where there is no bundle. Raises DataError for one that is damaged."""
    return _read(bundle / RECORDS_FILE, RECORDS)["run_id"].to_pylist() if is_bundle(bundle) else []


def unpack(bundle: Path, results: Path) -> int:
    """Write the runs of a bundle as run folders; those that are there stay as they are. Returns how many are new.

    Raises DataError for a bundle that is none, and StorageError for a name that leaves the results folder.
    """
    store = Store(results)
    records = [(decode(text), history) for text, history in _records(bundle)]
    folders = [store.folder(record.task, record.model, record.method, record.run_id) for record, _ in records]
    missing = [not (folder / RECORD_FILE).exists() for folder in folders]
    predictions = _predictions_by_run(bundle) if any(missing) else {}
    for folder, (record, history) in itertools.compress(zip(folders, records, strict=True), missing):
        folder.mkdir(parents=True, exist_ok=True)
        if history:
            (folder / HISTORY_FILE).write_text(history)
        if record.run_id in predictions:
            pq.write_table(predictions[record.run_id], folder / PREDICTIONS_FILE)
        (folder / RECORD_FILE).write_text(json.dumps(plain(record), indent=2))
    return sum(missing)


def _records(bundle: Path) -> list[tuple[str, str]]:
    """Each record as JSON, and its training curve."""
    table = _read(bundle / RECORDS_FILE, RECORDS)
    return list(zip(table["record"].to_pylist(), table["history"].to_pylist(), strict=True))


def _predictions_by_run(bundle: Path) -> dict[str, pa.Table]:
    """Each run's predictions, without the columns that it has none of."""
    table = _read(bundle / PREDICTIONS_FILE, PREDICTIONS)
    found = {}
    ends = pc.run_end_encode(table["run_id"].combine_chunks())
    start = 0
    for end, run in zip(ends.run_ends.to_pylist(), ends.values.to_pylist(), strict=True):
        rows = table.slice(start, end - start).drop_columns(["run_id"])
        found[run] = rows.select([name for name in rows.column_names if rows[name].null_count < rows.num_rows])
        start = end
    return found


def _read(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read: {one_line(error)[:200]}.") from error
    if not table.schema.equals(schema):
        raise DataError(f"{file} does not have the columns {', '.join(schema.names)}.")
    return table


def _without_paths(file: Path) -> str:
    """A record without the paths and the name of its machine; that of a local model counts and stays."""
    record = decode(file.read_bytes())
    settings: dict[str, Any] = json.loads(json.dumps(record.settings))
    for (section, key), instead in LOCAL_SETTINGS.items():
        settings.get(section, {})[key] = instead
    record.settings = settings
    local = tuple(f"{section}.{key}=" for section, key in LOCAL_SETTINGS)
    record.overrides = [override for override in record.overrides if not override.startswith(local)]
    record.hostname = None
    return json.dumps(plain(record), separators=(",", ":"), sort_keys=True)


def _text(file: Path) -> str:
    return file.read_text("utf-8") if file.is_file() else ""


def _compact(folder: Path) -> pa.Table:
    """What the headline metric follows from, of every example of a run; nothing where predictions are missing."""
    try:
        table = pq.read_table(folder / PREDICTIONS_FILE)
    except (OSError, pa.ArrowException):
        return PREDICTIONS.empty_table()
    columns = []
    for field in PREDICTIONS:
        if field.name == "run_id":
            columns.append(pa.array([folder.name] * table.num_rows))
        elif field.name == "split" or _is_number(table, field.name):
            columns.append(table[field.name].combine_chunks().cast(field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=PREDICTIONS)


def _is_number(table: pa.Table, column: str) -> bool:
    """Whether the table has the column and it holds numbers or truth values; labels of GSM8K are text."""
    if column not in table.column_names:
        return False
    kind = table[column].type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
