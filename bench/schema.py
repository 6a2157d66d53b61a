"""Records as plain values: validated on the way out and on the way in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, get_args, get_type_hints

from bench.record import SCHEMA_VERSION, RunRecord

STATUSES = ("complete", "diverged", "failed", "interrupted", "out_of_memory")
MEASURED_WHEN_COMPLETE = (
    "score",
    "trainable_parameters",
    "train_samples_per_second",
    "train_seconds",
    "peak_memory_bytes",
)
READABLE_VERSIONS = (1, SCHEMA_VERSION)


class RecordError(ValueError):
    """A record that does not follow the schema."""


def plain(record: RunRecord) -> dict[str, Any]:
    """The record as plain values, validated. Raises RecordError."""
    values = asdict(record)
    validate(values)
    return values


def read(values: Mapping[str, Any]) -> RunRecord:
    """A record from plain values; one of an earlier version lacks what was not measured then. Raises RecordError."""
    values = _upgraded(values)
    validate(values)
    return RunRecord(**values)


def validate(values: Mapping[str, Any]) -> None:
    """Check names, types, statuses and numbers of a record. Raises RecordError naming the first column that is off."""
    if values.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(f"schema_version is {values.get('schema_version')!r}; this version writes {SCHEMA_VERSION}")
    hints = get_type_hints(RunRecord)
    for column in fields(RunRecord):
        if column.name not in values:
            raise RecordError(f"the column {column.name} is missing")
        _check_type(column.name, values[column.name], hints[column.name])
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise RecordError(f"unknown column {unknown[0]}")
    if values["status"] not in STATUSES:
        raise RecordError(f"status is {values['status']!r}, not one of {', '.join(STATUSES)}")
    _check_finite("", values)
    if values["status"] == "complete":
        for name in MEASURED_WHEN_COMPLETE:
            if values[name] is None:
                raise RecordError(f"a complete record has no {name}")
    elif values["score"] is not None:
        raise RecordError(f"a record with status {values['status']} has a score")


def _upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under today's columns. Version 1 had a subset of them."""
    version = values.get("schema_version")
    if version not in READABLE_VERSIONS:
        raise RecordError(f"schema_version is {version!r}; this version reads {READABLE_VERSIONS}")
    if version == SCHEMA_VERSION:
        return dict(values)
    added = {column.name: _default(column) for column in fields(RunRecord) if column.name not in values}
    return {**added, **values, "schema_version": SCHEMA_VERSION}


def _default(column: Any) -> Any:
    if column.default_factory is not MISSING:
        return column.default_factory()
    if column.default is MISSING:
        raise RecordError(f"the column {column.name} is missing")
    return column.default


def _check_type(name: str, value: object, hint: Any) -> None:
    allowed = tuple(
        getattr(option, "__origin__", option) for option in (get_args(hint) if _is_union(hint) else (hint,))
    )
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return
    if (isinstance(value, bool) and bool not in allowed) or not isinstance(value, allowed):
        raise RecordError(f"{name} is {value!r}, which is no {hint}")


def _is_union(hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is None and bool(get_args(hint))


def _check_finite(prefix: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{prefix or 'value'} is {value}, which JSON cannot hold")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(f"{prefix}.{key}" if prefix else str(key), item)
