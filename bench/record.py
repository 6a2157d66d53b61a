"""The record of one run: flat columns under stable names, versioned and validated.

Units stand in the names. A number that was not measured is null, and `reasons` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args, get_type_hints

SCHEMA_VERSION = 1
STATUSES = ("complete", "diverged", "failed", "interrupted", "out_of_memory")
MEASURED_WHEN_COMPLETE = (
    "score",
    "trainable_parameters",
    "train_samples_per_second",
    "train_seconds",
    "peak_memory_bytes",
)


class RecordError(ValueError):
    """A record that does not follow the schema."""


@dataclass
class RunRecord:
    """Everything known about one run."""

    # What ran
    run_id: str
    method: str
    model: str
    task: str
    seed: int
    budget: str
    data_source: str
    precision: str
    device: str
    schema_version: int = SCHEMA_VERSION
    status: str = "failed"
    error: str | None = None

    # How well: the headline metric in percent, and all metrics of the task as the benchmark defines them
    metric: str | None = None
    score: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    evaluation_examples: int | None = None
    selection: str = "last"

    # Parameters: the head is counted apart, tied tensors once, PEFT's frozen copy of the head not at all
    trainable_parameters: int | None = None
    trainable_percent: float | None = None
    head_parameters: int | None = None
    total_parameters: int | None = None
    inference_parameters: int | None = None
    stored_bytes: int | None = None

    # Time, in seconds of wall clock
    train_seconds: float | None = None
    phase_seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: float | None = None

    # Throughput: steady state (warm-up steps cut off), padding not counted
    train_samples_per_second: float | None = None
    train_tokens_per_second: float | None = None
    evaluation_samples_per_second: float | None = None
    train_steps: int | None = None
    train_samples: int | None = None
    final_train_loss: float | None = None
    padding: str = "longest in batch"

    # Memory: the training phase's peak; per phase and kind beside it
    peak_memory_bytes: int | None = None
    phase_peak_memory_bytes: dict[str, dict[str, int]] = field(default_factory=dict)

    # Provenance
    data_revision: str | None = None
    model_repository: str | None = None
    model_revision: str | None = None
    model_sha256: str | None = None
    settings_id: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    git_commit: str | None = None
    git_dirty: bool | None = None
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    hostname: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, validated. Raises RecordError."""
        values = asdict(self)
        validate(values)
        return values


def validate(values: Mapping[str, Any]) -> None:
    """Check names, types, statuses and numbers of a record. Raises RecordError naming the first column that is off."""
    if values.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(f"schema_version is {values.get('schema_version')!r}; this version reads {SCHEMA_VERSION}")
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


def read(values: Mapping[str, Any]) -> RunRecord:
    """A record from plain values. Raises RecordError."""
    validate(values)
    return RunRecord(**values)


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
