"""What the boards use of a record."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.records.record import RunRecord

TASK = ["task", "data_revision", "task_settings_id"]
"""What makes one task: its data, and settings such as a template or a limit of new tokens."""
GROUP = [
    "model",
    "model_settings_id",
    "budget",
    "recipe_id",
    "tuning",
    "data_source",
    "data_subset",
    "precision",
    "hardware",
    "software",
]
"""What rows must have in common to be ranked together."""
ROW = ["method", "settings_id"]
KEY = [*TASK, *GROUP, *ROW]
"""What the runs of one row have in common: they differ in the seed alone."""
AVERAGED = [
    "trainable_parameters",
    "trainable_percent",
    "head_parameters",
    "inference_parameters",
    "stored_bytes",
    "memory_bytes",
    "peak_memory_bytes",
    "activation_bytes",
    "train_samples_per_second",
    "train_tokens_per_second",
    "train_seconds",
    "step_seconds_median",
    "train_flops",
    "train_energy_joules",
    "inference_latency_seconds_median",
    "ppt_c1e7",
    "pscp_b1_overhead",
    "pscp_b2_overhead",
    "pscp_b1_total",
]
COSTS = (
    "trainable_parameters",
    "memory_bytes",
    "train_seconds",
    "train_energy_joules",
    "inference_latency_seconds_median",
)
"""What a score is set against."""
USUAL_SPAN = 10.0
"""Of the learning rates that tuning tries, around the method's own; runs that do not say theirs have this one."""
IDENTITY = ["held_out", "seed", "finished_at", "metric", "score"]
COLUMNS = ["row", "group", *KEY, *IDENTITY, *AVERAGED, "combined_score", "learning_rate"]
DERIVED: dict[str, type] = {
    "row": str,
    "group": str,
    "model_settings_id": str,
    "task_settings_id": str,
    "hardware": str,
    "software": str,
    "memory_bytes": int,
    "combined_score": float,
    "learning_rate": float,
}
"""Columns that are no record's own, with their types."""
WHOLE = "whole"
"""In place of a subset where the benchmark prescribes none."""
DEFAULTS, BY_HAND = "defaults", "rate set by hand"
"""In place of a tuning where there was none."""
SAME_SUBSETS = {"rebuilt": "official"}
"""Subsets of the same examples, whatever they were made from."""
UNKNOWN = "unknown"
"""In place of what a record of an earlier version does not say."""
REVISION_LENGTH, ROW_LENGTH, GROUP_LENGTH, SETTINGS_LENGTH = 12, 12, 12, 8
DATA = ("repository", "revision")
"""Settings of a task that its `data_revision` stands for."""
OF_RATE = re.compile(r"[+]*(training|method)\.learning_rate=")
LIBRARIES = ("torch", "transformers", "peft")
"""The software that decides what a run computes."""
OWN = [name for name in COLUMNS if name not in DERIVED]
_own_of = attrgetter(*OWN)
_key_of, _group_of = itemgetter(*KEY), itemgetter(*GROUP)


def board_values(record: RunRecord) -> dict[str, Any]:
    """A record's values of `COLUMNS`, in their order.

    `row` and `group` are short names for the values of `KEY` and `GROUP`: hashes, equal for equal values everywhere.
    `model_settings_id` and `task_settings_id` are hashes of what the names of model and task do not say. `settings_id`
    ends with the size of forward passes where one was chosen: it changes memory and speed.
    `memory_bytes` is the allocator's peak on CUDA. Elsewhere it is the sum of the causes: the peak of the resident set
    holds whatever a process did before, so it differs between seeds by more than between many methods.
    `tuning` says how much of it there was. `data_subset` loses the hash of its rows, which differs from task to task.
    `combined_score` is the mean of a task's metrics where its benchmark averages several, else the score.
    """
    values = dict(zip(OWN, _own_of(record), strict=True))
    mean = record.metrics.get("combined_score")
    values["tuning"] = _effort(record)
    values["recipe_id"] = record.recipe_id or UNKNOWN
    values["model_settings_id"] = _model_settings_id(record)
    values["task_settings_id"] = _task_settings_id(record)
    values["settings_id"] = _settings_id(record)
    values["data_revision"] = (record.data_revision or UNKNOWN)[:REVISION_LENGTH]
    subset = (record.data_subset or WHOLE).partition(" ")[0]
    values["data_subset"] = SAME_SUBSETS.get(subset, subset)
    values["hardware"] = _hardware(record)
    values["software"] = _software(tuple(map(record.versions.get, LIBRARIES)))
    peak, causes = record.peak_memory_bytes, record.predicted_peak_memory_bytes
    values["memory_bytes"] = peak if record.device == "cuda" else causes
    values["combined_score"] = record.score if mean is None else 100 * mean
    values["learning_rate"] = section(record, "training").get("learning_rate")
    values["row"] = _name(_key_of(values), ROW_LENGTH)
    values["group"] = _name(_group_of(values), GROUP_LENGTH)
    return {name: values[name] for name in COLUMNS}


def short_hash(values: Iterable[Any], length: int) -> str:
    """The first characters of a hash of the values."""
    return hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()[:length]


_name = functools.lru_cache(maxsize=4096)(short_hash)
"""Runs that lie together have values in common."""


def _model_settings_id(record: RunRecord) -> str:
    """A hash of the model's origin, weights and settings; a folder counts by the weights in it, if they are known."""
    settings = section(record, "model")
    origin = (record.model_repository, record.model_revision, record.model_sha256 or settings.get("path"))
    return _name((*origin, settings.get("image_size"), settings.get("head_dropout")), SETTINGS_LENGTH)


def _task_settings_id(record: RunRecord) -> str:
    """A hash of the task's settings but where its data come from."""
    settings = sorted(item for item in section(record, "task").items() if item[0] not in DATA)
    return _name(tuple(map(repr, settings)), SETTINGS_LENGTH) if settings else UNKNOWN


def _settings_id(record: RunRecord) -> str | None:
    """The record's own, and the size of its forward passes where the settings say one."""
    size = section(record, "hardware").get("per_device_batch_size")
    return record.settings_id if size is None else f"{record.settings_id}-b{size}"


def section(record: RunRecord, name: str) -> Mapping[str, Any]:
    """The settings under a name; none where the record has none."""
    section = record.settings.get(name)
    return section if isinstance(section, dict) else {}


def _effort(record: RunRecord) -> str:
    """How the learning rate was found; which ones were tried where they are not the usual ones."""
    own, centre = record.method_learning_rate, section(record, "method").get("learning_rate")
    if record.tuning == "none":
        told = any(map(OF_RATE.match, record.overrides))
        chosen = section(record, "training").get("learning_rate")
        return BY_HAND if told or own not in (None, chosen) else DEFAULTS
    span = section(record, "tuning").get("span", USUAL_SPAN)
    others = "" if span == USUAL_SPAN else f", rates over a span of {span:g}"
    around = "" if own in (None, centre) else f", rates around {centre:g}"
    return f"{record.tuning}, {record.tuning_trials} trials of {record.tuning_steps} steps{others}{around}"


def _hardware(record: RunRecord) -> str:
    """The device, how many of them, and whether the model's weights are split over them."""
    device = str(record.hardware.get("device_name") or record.device)
    devices = device if record.processes == 1 else f"{record.processes} x {device}"
    return f"{devices}, split" if section(record, "hardware").get("split") else devices


@functools.lru_cache(maxsize=256)
def _software(versions: tuple[str | None, ...]) -> str:
    """The major and minor versions of the libraries that compute."""
    known = {name: str(version).split("+")[0] for name, version in zip(LIBRARIES, versions, strict=True) if version}
    return ", ".join(f"{name} {'.'.join(version.split('.')[:2])}" for name, version in known.items()) or UNKNOWN
