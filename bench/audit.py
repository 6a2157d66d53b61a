"""Whether a folder of records can be believed: schema, places, duplicates, impossible values, derived columns, files.

Everything that follows from other things is worked out again: ids from the settings, derived columns from the columns
that they are made of, the score from the predictions. Nothing in a record is executed; its settings are only compared.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.errors import one_line
from bench.hardware import Hardware
from bench.identity import canonical, recipe_id, run_id, settings_id
from bench.measure.derived import note_composites
from bench.planning import build
from bench.records.bundle import LATER, is_local
from bench.records.record import RunRecord
from bench.records.schema import RecordError, decode
from bench.records.store import PREDICTIONS_FILE, RECORD_FILE, Store
from bench.settings import LEARNING_RATE, RunSettings
from bench.stats.outcomes import metric_of, outcomes
from bench.sweeps.trials import TrialsFailedError, chosen, trial_of
from bench.validation import CONFIGURATION, SEARCH_PATH, described
from tasks.sources import Source

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")
"""What a method, model or task may be called: it becomes a path and a cell of a table."""
RUN_ID, COMMIT = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
"""As `provenance.now` writes it: times sort as texts."""
TOLERANCE = 1e-6
SCORE_TOLERANCE = 1e-3
"""Points; predictions of regression are stored in single precision."""
PSCP = ("pscp_b1_overhead", "pscp_b2_overhead", "pscp_b1_total")
DERIVED = ("ppt_c1e7", *PSCP, "mcr", "st_samples_per_second_per_parameter")
MEMORY_CAUSES = ("base_weight", "method_weight", "buffer", "gradient", "activation", "optimizer")
MAY_BE_NEGATIVE = ("score", "inference_score", "mcr", "train_memory_growth_bytes", "feature_cka", "rise", "ppt", "pscp")
"""Beginnings or parts of the names of columns that are no amounts."""
AT_MOST = {"score": 100.0, "inference_score": 100.0, "trainable_percent": 100.0, "amu_fraction": 1.0, "pcu": 1.1}
"""Shares; processor time and wall clock are read one after the other."""
AXES = ("method", "task", "model")
NAMED = (*AXES, "seed", "budget", "tuning")
"""What an override without a dot can say, of which a record has a column."""
TELLING = {"method": ("_target_", "peft_type"), "task": ("_target_", "config", "name")}
"""Settings that must be those of the YAML that the record names."""
STEPS = "training.max_steps"
OF_HYDRA = re.compile(r"[+~]*hydra[./=]")
INTERPOLATION = "${"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a file."""

    path: Path
    what: str


def audit(results: Path, from_elsewhere: bool = False) -> list[Finding]:
    """Everything that is wrong with the records under a results folder, in the order of their paths.

    Records from elsewhere must not tell Hydra where to look for configuration.
    """
    found: list[Finding] = []
    records: dict[Path, RunRecord] = {}
    for file in record_files(results):
        try:
            records[file] = decode(file.read_bytes())
        except (OSError, RecordError) as error:
            found.append(Finding(file, f"cannot be read: {error}"))
    for file, record in records.items():
        found += [Finding(file, what) for what in _problems_or_error(record, file.parent, Store(results).root)]
        found += [Finding(file, what) for what in _commands(record, from_elsewhere)]
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


def _problems_or_error(record: RunRecord, folder: Path, root: Path) -> Iterator[str]:
    try:
        yield from problems(record, folder, root)
    except Exception as error:  # somebody else's settings and predictions can be wrong in any way
        yield f"cannot be checked: {type(error).__name__}: {one_line(error)[:200]}"


def _commands(record: RunRecord, from_elsewhere: bool) -> Iterator[str]:
    """What is wrong with a run's overrides: boards show them as a command to copy."""
    yield from _other_command(record)
    for override in record.overrides:
        if OF_HYDRA.match(override) and (from_elsewhere or not override.startswith(SEARCH_PATH)):
            yield f"override {override!r} is about Hydra and not about the run"
        elif override.startswith("-") or (from_elsewhere and is_local(override)):
            yield f"override {override!r} is about the machine, not about the run"


def _other_command(record: RunRecord) -> Iterator[str]:
    """What the overrides say of the run and the record does not; others may follow from a choice that they name."""
    try:
        said = dict(map(_said, record.overrides))
    except HydraException as error:
        yield f"its command cannot be read: {one_line(error)[:200]}"
        return
    usual = {} if "experiment" in said else _unsaid()
    for name in NAMED:
        expected = said.get(name, usual.get(name))
        if expected is not None and getattr(record, name) != expected:
            yield f"its command means {name}={expected}; it is {getattr(record, name)}"
    for name, value in said.items():
        found = _setting(record, name)
        if isinstance(value, (bool, int, float)) and isinstance(found, (bool, int, float)) and found != value:
            yield f"its command means {name}={value}; its settings say {found}"


@functools.lru_cache(maxsize=4096)  # the runs of a sweep have most of them in common
def _said(override: str) -> tuple[str, Any]:
    """The name and the value of an override. Raises HydraException."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


@functools.cache
def _unsaid() -> Mapping[str, Any]:
    """What a command means that does not say it, of what no other choice brings."""
    config = yaml.safe_load((CONFIGURATION / "config.yaml").read_text("utf-8"))
    chosen = {axis: choice for entry in config["defaults"] if isinstance(entry, dict) for axis, choice in entry.items()}
    return {"method": chosen["method"], "task": chosen["task"], "seed": config["seed"]}


def _setting(record: RunRecord, name: str) -> Any:
    """The value of a setting such as `training.learning_rate` in a record; None where it has none."""
    found: Any = record.settings
    for word in name.split("."):
        found = found.get(word) if isinstance(found, dict) else None
    return found


def problems(record: RunRecord, folder: Path, root: Path) -> Iterator[str]:
    """What is wrong with one record in its folder below `root`."""
    yield from _wrong_names(record)
    expected = f"{record.task}/{record.model}/{record.method}/{record.run_id}"
    if folder.relative_to(root).as_posix() != expected:
        yield f"lies in the wrong place: it belongs into {expected}"
    yield from _impossible_values(record)
    if INTERPOLATION in json.dumps(record.settings):
        yield f"settings refer to something else by {INTERPOLATION!r}"
    else:
        yield from _wrong_ids(record)
    yield from _other_choices_than_named(record)
    if record.status == "complete":
        yield from _wrong_derivations(record)
        yield from _wrong_predictions(record, folder)


def _wrong_names(record: RunRecord) -> Iterator[str]:
    for column in AXES:
        if not NAME.fullmatch(getattr(record, column)):
            yield f"{column} is {getattr(record, column)!r}, which is no name"
    if not RUN_ID.fullmatch(record.run_id):
        yield f"run_id is {record.run_id!r}, not 16 hexadecimal digits"
    if record.git_commit is not None and not COMMIT.fullmatch(record.git_commit):
        yield f"git_commit is {record.git_commit!r}, which is none"
    for column in ("started_at", "finished_at"):
        if (moment := getattr(record, column)) is not None and not MOMENT.fullmatch(moment):
            yield f"{column} is {moment!r}, which is no time in UTC"


def _impossible_values(record: RunRecord) -> Iterator[str]:
    """Numbers that cannot have been measured."""
    for column in fields(record):
        value = getattr(record, column.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low = -math.inf if any(part in column.name for part in MAY_BE_NEGATIVE) else 0.0
        if not low <= value <= AT_MOST.get(column.name, math.inf) or not math.isfinite(value):
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
    tuned = settings.tuning.name != "none"
    expected = {
        "run_id": run_id(canonical(settings, Hardware(record.device, record.precision), source)),
        "settings_id": settings_id(settings),
        "recipe_id": recipe_id(settings),
        "seed": settings.seed,
        "budget": settings.budget.name,
        "held_out": settings.budget.held_out,
        "tuning": settings.tuning.name,
        "tuning_trials": settings.tuning.trials if tuned else 0,
        "tuning_steps": settings.tuning.steps if tuned else None,
        "tuned_settings": settings.values(settings.tuning.keys),
        "trial_run_ids": settings.tuning.run_ids if tuned else [],
        "model": settings.model.name,
        "model_repository": settings.model.repository,
        "model_revision": settings.model.revision,
    }
    for column, value in expected.items():
        known = getattr(record, column) is not None  # records of earlier versions lack some
        if known and getattr(record, column) != value:
            yield f"{column} is {getattr(record, column)!r}; its settings make it {value!r}"


def _other_choices_than_named(record: RunRecord) -> Iterator[str]:
    """Names of `conf` under which other settings or another metric stand."""
    for axis, keys in TELLING.items():
        name = getattr(record, axis)
        settings = record.settings.get(axis)
        for key in keys:
            expected = _described(axis, name).get(key)
            found = settings.get(key) if isinstance(settings, dict) else None
            same = found == expected or (key == "_target_" and _class_name(found) == _class_name(expected))
            if expected is not None and not same:
                yield f"settings.{axis}.{key} is {found!r}; {name} has {expected!r}"
    headline = _headline(record.task)
    if headline is not None and record.metric != headline:
        yield f"metric is {record.metric!r}; that of {record.task} is {headline!r}"


def _class_name(target: Any) -> str:
    """Without the module, from which a class may have moved since."""
    return str(target).rpartition(".")[2]


def _described(axis: str, name: str) -> Mapping[str, Any]:
    """The settings of a choice in `conf`; none for a name that is not there, as another package's is."""
    known = NAME.fullmatch(name) and (CONFIGURATION / axis / f"{name}.yaml").is_file()
    return described(axis, name) if known else {}


@functools.cache
def _headline(task: str) -> str | None:
    """The headline metric of a task in `conf`; None for any other."""
    described = _described("task", task)
    return str(build(described).headline) if described else None


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
    metric = metric_of(record.task, _headline(record.task) or record.metric)
    of_run = None if metric is None else outcomes(folder, metric)
    if metric is not None and of_run is None and not LATER.intersection(metric.columns):
        yield f"{PREDICTIONS_FILE} lacks what the score follows from: split, id, {', '.join(metric.columns)}"
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
    """Tuned runs whose trials are missing, too many, were not held out, or speak for other runs or settings."""
    by_id = {record.run_id: (file, record) for file, record in records.items()}
    for file, record in records.items():
        if record.status != "complete" or record.tuning == "none":
            continue
        found = dict(by_id[trial] for trial in record.trial_run_ids if trial in by_id)
        trials = list(found.values())
        if absent := set(record.trial_run_ids) - set(by_id):
            yield Finding(file, f"{len(absent)} of its trials are missing")
            continue
        if len(record.trial_run_ids) != record.tuning_trials:
            yield Finding(file, f"it names {len(record.trial_run_ids)} trials, and says {record.tuning_trials}")
        if others := {_values(trial, [STEPS])[STEPS] for trial in trials} - {record.tuning_steps}:
            yield Finding(file, f"a trial has {min(map(str, others))} steps, not {record.tuning_steps}")
        if not all(trial.held_out for trial in trials):
            yield Finding(file, "a trial was scored on reported examples")
        if any(trial.seed == record.seed for trial in trials):
            yield Finding(file, f"its seed, {record.seed}, is that of a trial")
        for axis in AXES:
            if others := {getattr(trial, axis) for trial in trials} - {getattr(record, axis)}:
                yield Finding(file, f"a trial is of another {axis}: {', '.join(sorted(others))}")
        yield from _other_choice(file, record, found)


def _other_choice(file: Path, record: RunRecord, trials: Mapping[Path, RunRecord]) -> Iterator[Finding]:
    """A finding if the settings are not those that the trials' scores speak for."""
    tried = [trial_of(trial, place.parent, _values(trial, record.tuned_settings)) for place, trial in trials.items()]
    if not all(isinstance(trial.values.get(LEARNING_RATE), (int, float)) for trial in tried):
        yield Finding(file, f"tuned_settings are {record.tuned_settings}; its trials name no learning rate")
        return
    try:
        best = dict(chosen(tried).values)
    except TrialsFailedError as error:
        yield Finding(file, f"tuned_settings are {record.tuned_settings}; {error}")
        return
    if record.tuned_settings != best:
        yield Finding(file, f"tuned_settings are {record.tuned_settings}; its trials speak for {best}")


def _values(record: RunRecord, names: Iterable[str]) -> dict[str, Any]:
    """The values of settings in a record."""
    return {name: _setting(record, name) for name in names}
