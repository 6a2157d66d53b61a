"""The run id: a hash of everything that can change a result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.hardware import Hardware
    from bench.settings import BudgetSettings, ModelSettings, RunSettings, TuningSettings
    from tasks.sources import Source

IDENTITY_VERSION = 2
ID_LENGTH = 16
SETTINGS_ID_LENGTH = 8
DESCRIPTIVE = ("facts",)
"""Keys of a method that describe it and change nothing."""
NOT_TRAINING = ("log_steps", "checkpoint_steps", "checkpoint_minutes")
NOT_MODEL = ("name", "package")
"""A package carries the same weights as the repository at its revision."""
SEARCH = ("name", "trials", "steps", "seed", "span", "extra")
"""How settings were chosen; not by which trials, whose outcome stands in the settings themselves."""


def canonical(settings: RunSettings, hardware: Hardware, source: Source) -> dict[str, Any]:
    """What identifies a run, as plain values: not where or when it ran, nor on which device."""
    training = {key: value for key, value in asdict(settings.training).items() if key not in NOT_TRAINING}
    return {
        "identity_version": IDENTITY_VERSION,
        "method": method_settings(settings.method),
        "model": _model_settings(settings.model),
        "task": dict(settings.task),
        "data": {"source": source.kind, "revision": source.revision},
        "budget": _budget_settings(settings.budget),
        "training": training,
        "per_device_batch_size": settings.hardware.per_device_batch_size,
        "precision": hardware.precision,
        "seed": settings.seed,
        **({} if settings.tuning.name == "none" else {"tuning": _search(settings.tuning)}),
    }


def _model_settings(model: ModelSettings) -> dict[str, Any]:
    """Without the size of images where a model reads text: its runs keep the ids of earlier versions."""
    settings = {key: value for key, value in asdict(model).items() if key not in NOT_MODEL}
    return {key: value for key, value in settings.items() if key != "image_size" or value is not None}


def _budget_settings(budget: BudgetSettings) -> dict[str, Any]:
    """Without `held_out` where nothing is: such runs keep the ids of earlier versions."""
    return {key: value for key, value in asdict(budget).items() if key != "held_out" or value}


def _search(tuning: TuningSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(tuning).items() if key in SEARCH}


def method_settings(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings without what only describes it."""
    return {key: value for key, value in method.items() if key not in DESCRIPTIVE}


def run_id(identity: Mapping[str, Any]) -> str:
    """Hexadecimal hash of a canonical identity; equal for equal settings on any machine."""
    return digest(identity)[:ID_LENGTH]


def settings_id(settings: RunSettings) -> str:
    """Hash of a method's settings and recipe: what the seeds and tasks of one leaderboard row have in common.

    Of a tuned run counts how it was tuned, in place of the values that were chosen.
    """
    training, method = _training(settings), method_settings(settings.method)
    chosen: dict[str, Any] = {}
    if settings.tuning.name != "none":
        chosen = {"tuning": _search(settings.tuning)}
        for key in settings.tuning.keys:
            section, _, name = key.partition(".")
            {"method": method, "training": training}[section].pop(name)
    return digest({"method": method, "training": training, **chosen})[:SETTINGS_ID_LENGTH]


def recipe_id(settings: RunSettings) -> str:
    """Hash of what methods that are compared must share: training but for the learning rate, and evaluation."""
    training = {key: value for key, value in _training(settings).items() if key != "learning_rate"}
    return digest({"training": training, "budget": _budget_settings(settings.budget)})[:SETTINGS_ID_LENGTH]


def _training(settings: RunSettings) -> dict[str, Any]:
    """What a task or budget brings by default counts as that, not by its value, so that it is equal on all tasks."""
    training = {key: value for key, value in asdict(settings.training).items() if key not in NOT_TRAINING}
    brought = {"epochs": settings.task, "max_length": settings.task, "max_steps": asdict(settings.budget)}
    for key, defaults in brought.items():
        if training[key] == defaults[key]:
            training[key] = "default"
    return training


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of the values as JSON with sorted keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
