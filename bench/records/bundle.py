"""Many runs in two compact files, to publish them or hand them on: `records.parquet` and `predictions.parquet`.

A bundle keeps what boards need: each record as JSON with its training curve, and of the predictions the columns that
the headline metric follows from. Adapters, generated texts and what tells of the machine or cluster stay behind.
"""

from __future__ import annotations

import collections
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.errors import DataError, one_line
from bench.files import replacing
from bench.records.record import RunRecord
from bench.records.schema import decode, plain
from bench.records.store import HISTORY_FILE, PREDICTIONS_FILE, RECORD_FILE, Store
from bench.records.workspace import set_aside

PUBLISHED = "published"
"""Folder in a results folder that may hold a bundle of runs, which then stand on its boards."""
RECORDS_FILE = "records.parquet"
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
        ("query", pa.int64()),
        ("credit", pa.float64()),
    ]
)
LATER = {"query", "credit"}
"""Columns that predictions and bundles of earlier versions lack."""
LOCAL_SETTINGS: dict[str, Any] = {
    "data.root": None,
    "results.dir": "results",
    **dict.fromkeys([f"hardware.slurm.{name}" for name in ("partition", "account", "qos", "constraint", "gres")]),
    "hardware.slurm.extra": {},
    "hardware.slurm.setup": [],
}
"""Settings that tell of the machine or cluster that a run was done on, and what stands in their place."""
LOCAL_OVERRIDES = (*LOCAL_SETTINGS, "hydra.searchpath", "local")
ABSOLUTE_PATH = re.compile(r"(?<![\w/.])/[^\s:;,'\"]+")
COMPRESSION = {"compression": "zstd", "compression_level": 19}


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle."""
    return (folder / RECORDS_FILE).is_file()


def pack(run_folders: Iterable[Path], bundle: Path) -> int:
    """Write the runs in these folders as a bundle, in the order of their ids; returns how many there are.

    Raises DataError for a run that lies in several of them.
    """
    folders = sorted(run_folders, key=lambda folder: folder.name)
    _check_once([folder.name for folder in folders], bundle / RECORDS_FILE)
    records = [(folder.name, _without_paths(folder / RECORD_FILE), _text(folder / HISTORY_FILE)) for folder in folders]
    predictions = [_compact(folder) for folder in folders]
    bundle.mkdir(parents=True, exist_ok=True)
    columns = [list(column) for column in zip(*records, strict=True)] if records else [[], [], []]
    with replacing(bundle / RECORDS_FILE) as of_records, replacing(bundle / PREDICTIONS_FILE) as of_predictions:
        pq.write_table(pa.table(columns, schema=RECORDS), of_records, **COMPRESSION)
        pq.write_table(pa.concat_tables(predictions or [PREDICTIONS.empty_table()]), of_predictions, **COMPRESSION)
    return len(folders)


def run_ids(bundle: Path) -> list[str]:
    """Ids of the runs of a bundle; none where there is no bundle. Raises DataError for one that is damaged."""
    return _read(bundle / RECORDS_FILE, RECORDS)["run_id"].to_pylist() if is_bundle(bundle) else []


def unpack(bundle: Path, results: Path) -> int:
    """Write the runs of a bundle as run folders. Returns how many are new.

    Runs that are there stay as they are, unless theirs is no readable record, or one of a run that did not complete
    while that of the bundle did: such a folder is set aside. Raises DataError for a bundle that is none, and
    StorageError for a name that leaves the results folder.
    """
    store = Store(results)
    records = _records(bundle)
    folders = [store.folder(record.task, record.model, record.method, record.run_id) for record, _ in records]
    missing = [not _stands(record, folder, store) for folder, (record, _) in zip(folders, records, strict=True)]
    predictions = _predictions_by_run(bundle) if any(missing) else {}
    for folder, (record, history) in itertools.compress(zip(folders, records, strict=True), missing):
        if (folder / RECORD_FILE).exists():
            set_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if history:
            with replacing(folder / HISTORY_FILE) as file:
                file.write_text(history, "utf-8")
        if record.run_id in predictions:
            with replacing(folder / PREDICTIONS_FILE) as file:
                pq.write_table(predictions[record.run_id], file)
        with replacing(folder / RECORD_FILE) as file:
            file.write_text(json.dumps(plain(record), indent=2), "utf-8")
    return sum(missing)


def _stands(record: RunRecord, folder: Path, store: Store) -> bool:
    """Whether the folder holds a record of the run that is as good."""
    found = store.ended(folder)
    return found is not None and (found.status == "complete" or record.status != "complete")


def _records(bundle: Path) -> list[tuple[RunRecord, str]]:
    """Each record and its training curve. Raises DataError for a run that is there twice or is not what it is called.

    Raises RecordError for a record that does not follow the schema.
    """
    file = bundle / RECORDS_FILE
    table = _read(file, RECORDS)
    runs, texts, histories = (table[name].to_pylist() for name in RECORDS.names)
    _check_once(runs, file)
    records = [decode(text) for text in texts]
    for run, record in zip(runs, records, strict=True):
        if run != record.run_id:
            raise DataError(f"{file} holds the record of {record.run_id} under the name {run}.")
    return list(zip(records, histories, strict=True))


def _predictions_by_run(bundle: Path) -> dict[str, pa.Table]:
    """Each run's predictions, without the columns that it has none of. Raises DataError where a run's lie apart."""
    table = _read(bundle / PREDICTIONS_FILE, PREDICTIONS)
    found = {}
    encoded = pc.run_end_encode(table["run_id"].combine_chunks())
    ends, runs = encoded.run_ends.to_pylist(), encoded.values.to_pylist()
    _check_once(runs, bundle / PREDICTIONS_FILE)
    for start, end, run in zip([0, *ends], ends, runs, strict=False):
        rows = table.slice(start, end - start).drop_columns(["run_id"])
        found[run] = rows.select([name for name in rows.column_names if rows[name].null_count < rows.num_rows])
    return found


def _check_once(runs: Sequence[str], file: Path) -> None:
    """Raise DataError if a run is there more than once."""
    twice = [run for run, count in collections.Counter(runs).items() if count > 1]
    if twice:
        raise DataError(f"{file} cannot hold the run {twice[0]} in {runs.count(twice[0])} places; each may have one.")


def _read(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read: {one_line(error)[:200]}.") from error
    for name in LATER.difference(table.column_names).intersection(schema.names):
        table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
    if not set(schema.names) <= set(table.column_names) or not table.select(schema.names).schema.equals(schema):
        raise DataError(f"{file} does not have the columns {', '.join(schema.names)}.")
    return table.select(schema.names)


def _without_paths(file: Path) -> str:
    """A record without what tells of its machine, its cluster and its paths; that of a local model counts and stays."""
    record = decode(file.read_bytes())
    settings: dict[str, Any] = json.loads(json.dumps(record.settings))
    for name, instead in LOCAL_SETTINGS.items():
        _replace(settings, name.split("."), instead)
    record.settings = settings
    record.overrides = [override for override in record.overrides if not is_local(override)]
    record.hostname = None
    record.interruptions = [interruption | {"hostname": None} for interruption in record.interruptions]
    record.error = record.error and record.error.partition(":")[0]  # its text may name files
    record.reasons = {column: ABSOLUTE_PATH.sub("...", reason) for column, reason in record.reasons.items()}
    return json.dumps(plain(record), separators=(",", ":"), sort_keys=True)


def _replace(settings: Any, keys: Sequence[str], value: Any) -> None:
    """Put a value in the place of another one; nothing where there is no such place."""
    *sections, key = keys
    for section in sections:
        settings = settings.get(section) if isinstance(settings, dict) else None
    if isinstance(settings, dict) and key in settings:
        settings[key] = value


def is_local(override: str) -> bool:
    """Whether an override sets something of the machine, alone or among others as `data={root: ...}`."""
    key, _, value = override.lstrip("+~").partition("=")
    within = any(key == name or key.startswith(f"{name}.") for name in LOCAL_OVERRIDES)
    return within or (value.startswith("{") and any(name.startswith(f"{key}.") for name in LOCAL_OVERRIDES))


def _text(file: Path) -> str:
    return file.read_text("utf-8") if file.is_file() else ""


def _compact(folder: Path) -> pa.Table:
    """What the headline metric follows from, of every example of a run; nothing where predictions are missing.

    Raises DataError for predictions that do not say which examples they are of.
    """
    file = folder / PREDICTIONS_FILE
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException):
        return PREDICTIONS.empty_table()
    if not ("split" in table.column_names and _is_number(table, "id")):
        raise DataError(f"{file} does not say by `split` and a number, `id`, which examples its rows are.")
    columns = []
    for field in PREDICTIONS:
        if field.name == "run_id":
            columns.append(pa.array([folder.name] * table.num_rows, field.type))
        elif field.name == "split" or _is_number(table, field.name):
            columns.append(_as(field, table, file))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=PREDICTIONS)


def _as(field: pa.Field, table: pa.Table, file: Path) -> pa.Array:
    """A column as a bundle holds it. Raises DataError for values that it cannot hold."""
    try:
        return table[field.name].combine_chunks().cast(field.type)
    except pa.ArrowException as error:
        raise DataError(f"The column `{field.name}` of {file} is no {field.type}: {one_line(error)[:200]}.") from error


def _is_number(table: pa.Table, column: str) -> bool:
    """Whether the table has the column and it holds numbers or truth values; labels of GSM8K are text."""
    if column not in table.column_names:
        return False
    kind = table[column].type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
