"""Records as plain values: validated on the way out and on the way in.

What a column may hold is said once, by the types in `bench/records/record.py`; msgspec checks them while it reads the
JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields
from typing import Any, Union, get_type_hints

import msgspec

from bench.records.record import SCHEMA_VERSION, RunRecord

STATUSES = ("complete", "diverged", "failed", "interrupted", "out_of_memory")
MEASURED_WHEN_COMPLETE = (
    "score",
    "trainable_parameters",
    "train_samples_per_second",
    "train_seconds",
    "peak_memory_bytes",
)
READABLE_VERSIONS = tuple(range(1, SCHEMA_VERSION + 1))
TYPES: dict[str, Any] = get_type_hints(RunRecord)


class RecordError(ValueError):
    """A record that does not follow the schema."""


def plain(record: RunRecord) -> dict[str, Any]:
    """The record as plain values, validated. Raises RecordError."""
    values = asdict(record)
    validate(values)
    return values


def validate(values: Mapping[str, Any]) -> None:
    """Check that the values, written as JSON, will be read as a record of today's version. Raises RecordError."""
    if values.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(f"schema_version is {values.get('schema_version')!r}; this version writes {SCHEMA_VERSION}")
    read(values)


def read(values: Mapping[str, Any]) -> RunRecord:
    """A record from plain values, as `decode`. Raises RecordError naming the first column that is off."""
    _check_finite("", values)
    try:
        text = json.dumps(values)
    except (TypeError, ValueError) as error:
        raise RecordError(f"the record does not fit into JSON: {error}") from error
    return decode(text)


def decode(text: bytes | str) -> RunRecord:
    """A record from its JSON; one of an earlier version lacks what was not measured then. Raises RecordError."""
    return RunRecord(**msgspec.structs.asdict(columns(text)))


def columns(text: bytes | str) -> Any:
    """What `decode` returns, with the columns as attributes but without the class, for half the time."""
    try:
        found = _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(str(error)) from error
    _check_outcome(found)
    return found


def _check_outcome(record: Any) -> None:
    """Raise RecordError unless the status is known and what was measured goes with it."""
    if record.status not in STATUSES:
        raise RecordError(f"status is {record.status!r}, not one of {', '.join(STATUSES)}")
    if record.status == "complete":
        for name in MEASURED_WHEN_COMPLETE:
            if getattr(record, name) is None:
                raise RecordError(f"a complete record has no {name}")
    elif record.score is not None:
        raise RecordError(f"a record with status {record.status} has a score")


def _check_finite(name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{name or 'value'} is {value}, which JSON cannot hold")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_finite(f"{name}[{index}]", item)


def _columns_of(version: int) -> Any:
    """A class with the columns of RunRecord and no others; in an earlier version those with a default may be absent."""
    described = [
        (column.name, TYPES[column.name], _field(column, required=version == SCHEMA_VERSION))
        for column in fields(RunRecord)
        if column.name != "schema_version"
    ]
    name = f"Version{version}"
    return msgspec.defstruct(
        name, described, tag_field="schema_version", tag=version, forbid_unknown_fields=True, kw_only=True
    )


def _field(column: Field[Any], required: bool) -> Any:
    if not required and column.default is not MISSING:
        return msgspec.field(default=column.default)
    if not required and column.default_factory is not MISSING:
        return msgspec.field(default_factory=column.default_factory)
    return msgspec.field()


_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Union[tuple(map(_columns_of, READABLE_VERSIONS))])  # noqa: UP007
