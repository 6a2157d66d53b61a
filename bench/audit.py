"""Whether a folder of records can be believed: schema, places, duplicates, impossible values, derived columns, files.

Everything that follows from other things is worked out again: ids from the settings, derived columns from the columns
that they are made of, the score from the predictions. Nothing in a record is executed; its settings are only compared.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.hardware import Hardware
from bench.identity import canonical, recipe_id, run_id, settings_id
from bench.leaderboard.outcomes import PREDICTIONS_FILE, metric_of, outcomes
from bench.measure.derived import note_composites
from bench.record import RunRecord
from bench.schema import RecordError, decode
from bench.settings import RunSettings
from bench.store import RECORD_FILE, Store
from tasks.sources import Source

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")
"""What a method, model or task may be called: it becomes a path and a cell of a table."""
RUN_ID = re.compile(r"[0-9a-f]{16}")
TOLERANCE = 1e-6
SCORE_TOLERANCE = 1e-3
"""Points; predictions of regression are stored in single precision."""
DERIVED = ("ppt_c1e7", "pscp_b1_overhead", "pscp_b2_overhead", "pscp_b1_total", "st_samples_per_second_per_parameter")
MEMORY_CAUSES = ("base_weight", "method_weight", "buffer", "gradient", "activation", "optimizer")
MAY_BE_NEGATIVE = ("score", "inference_score", "mcr", "train_memory_growth_bytes", "feature_cka", "rise", "ppt", "pscp")
"""Beginnings or parts of the names of columns that are no amounts."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a file."""

    path: Path
    what: str


def audit(results: Path) -> list[Finding]:
    """Everything that is wrong with the records under a results folder, in the order of their paths."""
    found: list[Finding] = []
    records: dict[Path, RunRecord] = {}
    for file in record_files(results):
        try:
            records[file] = decode(file.read_bytes())
        except (OSError, RecordError) as error:
            found.append(Finding(file, f"cannot be read: {error}"))
    for file, record in records.items():
        found += [Finding(file, what) for what in problems(record, file.parent, Store(results).root)]
    found += _duplicates(records)
    found += _trials_that_do_not_fit(records)
    return sorted(found, key=lambda finding: (str(finding.path), finding.what))


def record_files(results: Path) -> list[Path]:
    """The records under a results folder, without work in progress and what was set aside."""
    root = Store(results).root
    files = root.rglob(RECORD_FILE)
    return sorted(file for file in files if not any(part[0] == "." or "~" in part for part in _below(file, root)))


def _below(file: Path, root: Path) -> tuple[str, ...]:
    return file.relative_to(root).parts


def problems(record: RunRecord, folder: Path, root: Path) -> Iterator[str]:
    """What is wrong with one record in its folder below `root`."""
    yield from _wrong_names(record)
    expected = f"{record.task}/{record.model}/{record.method}/{record.run_id}"
    if folder.relative_to(root).as_posix() != expected:
        yield f"lies in the wrong place: it belongs into {expected}"
    yield from _impossible_values(record)
    yield from _wrong_ids(record)
    if record.status == "complete":
        yield from _wrong_derivations(record)
        yield from _wrong_predictions(record, folder)


def _wrong_names(record: RunRecord) -> Iterator[str]:
    for column in ("method", "model", "task"):
        if not NAME.fullmatch(getattr(record, column)):
            yield f"{column} is {getattr(record, column)!r}, which is no name"
    if not RUN_ID.fullmatch(record.run_id):
        yield f"run_id is {record.run_id!r}, not 16 hexadecimal digits"


def _impossible_values(record: RunRecord) -> Iterator[str]:
    """Numbers that cannot have been measured."""
    for column in fields(record):
        value = getattr(record, column.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low = -math.inf if any(part in column.name for part in MAY_BE_NEGATIVE) else 0.0
        high = 100.0 if column.name in ("score", "inference_score", "trainable_percent") else math.inf
        if not low <= value <= high or not math.isfinite(value):
            yield f"{column.name} is {value}, which is impossible"
    if record.score is not None and record.score < -100:
        yield f"score is {record.score}, which is impossible"


def _wrong_ids(record: RunRecord) -> Iterator[str]:
    """Ids that do not follow from the settings."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunSettings), record.settings)
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        yield f"settings are none of this version: {str(error).splitlines()[0]}"
        return
    assert isinstance(settings, RunSettings)
    source = Source(record.data_source, Path(), record.data_revision or "", "")
    expected = {
        "run_id": run_id(canonical(settings, Hardware(record.device, record.precision), source)),
        "settings_id": settings_id(settings),
        "recipe_id": recipe_id(settings),
        "seed": settings.seed,
        "budget": settings.budget.name,
        "held_out": settings.budget.held_out,
        "tuning": settings.tuning.name,
    }
    for column, value in expected.items():
        known = getattr(record, column) is not None  # records of earlier versions lack some
        if known and getattr(record, column) != value:
            yield f"{column} is {getattr(record, column)!r}; its settings make it {value!r}"


def _wrong_derivations(record: RunRecord) -> Iterator[str]:
    """Columns that do not follow from the columns that they are made of."""
    nothing: dict[str, Any] = dict.fromkeys(DERIVED)
    again = replace(record, **nothing)
    note_composites(again)
    expected: dict[str, Any] = {name: getattr(again, name) for name in DERIVED}
    if record.total_parameters and record.trainable_parameters is not None:
        expected["trainable_percent"] = 100 * record.trainable_parameters / record.total_parameters
    causes = [getattr(record, f"{cause}_bytes") for cause in MEMORY_CAUSES]
    expected["predicted_peak_memory_bytes"] = None if None in causes else sum(causes)
    if "train" in record.phase_seconds:
        expected["train_seconds"] = record.phase_seconds["train"]
    for column, value in expected.items():
        found = getattr(record, column)
        if (found is None) != (value is None) or (value is not None and not _close(found, value, TOLERANCE)):
            yield f"{column} is {found}; the columns that it follows from make it {value}"


def _wrong_predictions(record: RunRecord, folder: Path) -> Iterator[str]:
    """Predictions that are missing, or that another score follows from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(folder / PREDICTIONS_FILE).num_rows
    except (OSError, pa.ArrowException) as error:
        yield f"{PREDICTIONS_FILE} is missing or cannot be read: {str(error).splitlines()[0]}"
        return
    if rows != record.evaluation_examples:
        yield f"evaluation_examples is {record.evaluation_examples}; {PREDICTIONS_FILE} has {rows}"
    metric = metric_of(record.task, record.metric)
    of_run = None if metric is None else outcomes(folder, metric)
    if metric is not None and of_run is not None and record.score is not None:
        score = 100 * float(metric.of_means(of_run.values.mean(axis=0)))
        defined = 0.0 if math.isnan(score) else score
        if abs(defined - record.score) > SCORE_TOLERANCE:
            yield f"score is {record.score}; its predictions make it {defined}"


def _close(a: float, b: float, tolerance: float) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def _duplicates(records: dict[Path, RunRecord]) -> Iterator[Finding]:
    """Runs that are there more than once."""
    places = defaultdict(list)
    for file, record in records.items():
        places[record.run_id].append(file)
    for files in places.values():
        for file in files[1:]:
            yield Finding(file, f"is the run of {files[0]} once more")


def _trials_that_do_not_fit(records: dict[Path, RunRecord]) -> Iterator[Finding]:
    """Tuned runs whose trials are missing, were not held out, or speak for other settings."""
    by_id = {record.run_id: record for record in records.values()}
    for file, record in records.items():
        if record.status != "complete" or record.tuning == "none":
            continue
        trials = [by_id[trial] for trial in record.trial_run_ids if trial in by_id]
        if len(trials) < len(record.trial_run_ids):
            yield Finding(file, f"{len(record.trial_run_ids) - len(trials)} of its trials are missing")
            continue
        if not all(trial.held_out for trial in trials):
            yield Finding(file, "a trial was scored on reported examples")
        if any(trial.seed == record.seed for trial in trials):
            yield Finding(file, f"its seed, {record.seed}, is that of a trial")
        yield from _other_choice(file, record, trials)


def _other_choice(file: Path, record: RunRecord, trials: list[RunRecord]) -> Iterator[Finding]:
    """A finding if the settings are not those of a trial with the best held-out score."""
    best = max((trial.score for trial in trials if trial.score is not None), default=None)
    of_best = [_values(trial, record.tuned_settings) for trial in trials if trial.score == best]
    if dict(record.tuned_settings) not in of_best:
        yield Finding(file, f"tuned_settings are {record.tuned_settings}; the best trial speaks for {of_best[:1]}")


def _values(record: RunRecord, names: dict[str, Any]) -> dict[str, Any]:
    """The values of settings such as `training.learning_rate` in a record."""
    found = {}
    for name in names:
        section, _, key = name.partition(".")
        found[name] = record.settings.get(section, {}).get(key)
    return found
