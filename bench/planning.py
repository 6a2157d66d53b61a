"""What a run will be, worked out in about a second: settings, hardware, data source, identity, place of the record."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra.utils
from hydra.errors import InstantiationException

from bench import hardware
from bench.backbone import pretrained
from bench.errors import SettingsError, UserError, one_line
from bench.identity import canonical, run_id
from bench.records.record import RunRecord
from bench.records.store import Store
from bench.settings import ModelSettings, RunSettings
from tasks.base import Task
from tasks.locating import resolve
from tasks.sources import Source

if TYPE_CHECKING:
    from methods.base import Method


@dataclass(frozen=True)
class Names:
    """The words that were chosen on the axes."""

    method: str
    task: str
    model: str

    @classmethod
    def of(cls, choices: Mapping[str, Any]) -> Names:
        """The names among Hydra's choices of all axes."""
        return cls(choices["method"], choices["task"], choices["model"])


@dataclass(frozen=True)
class Limits:
    """What methods are checked against beside the model: the longest example in tokens, and the optimizer steps."""

    max_length: int | None
    max_steps: int | None

    @classmethod
    def of(cls, settings: RunSettings) -> Limits:
        """Those of a run; None where only its data tell."""
        return cls(settings.training.max_length, settings.training.max_steps)


@dataclass(frozen=True)
class Plan:
    """One run, decided but not begun."""

    settings: RunSettings
    names: Names
    overrides: list[str]
    hardware: hardware.Hardware
    task: Task
    source: Source
    run_id: str
    store: Store
    folder: Path
    finished: RunRecord | None

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.names.method} on {self.names.task}, {self.names.model}, seed {self.settings.seed}"

    def method(self) -> Method:
        """A new object of the run's method, not attached to a model yet."""
        settings = self.settings
        return _method(json.dumps(settings.method), self.names, settings.model, self.task, Limits.of(settings))


def plan(settings: RunSettings, names: Names, overrides: list[str]) -> Plan:
    """Decide everything about a run that needs no weights, and check it unless the run is finished. Raises UserError.

    The check imports torch, and comes before data is downloaded.
    """
    resolved = hardware.resolve(settings.hardware)
    task = _task(json.dumps(dict(settings.task)))
    check = functools.partial(_check, settings, names, task)
    source = resolve(settings.data, task, before_download=check)
    if settings.budget.held_out:
        task, source = task.held_out(source)
    identity = run_id(canonical(settings, resolved, source))
    store = Store(Path(settings.results.dir))
    folder = store.folder(names.task, names.model, names.method, identity)
    finished = None if settings.rerun else store.finished(folder)
    if finished is None:
        store.check_writable()
        check()
    return Plan(settings, names, overrides, resolved, task, source, identity, store, folder, finished)


@functools.lru_cache(maxsize=256)
def _task(settings: str) -> Task:
    """The task of these settings, once for all runs of a sweep that share it: tasks hold nothing of a run."""
    task: Task = build(json.loads(settings))
    return task


def _check(settings: RunSettings, names: Names, task: Task) -> None:
    """Raise SettingsError if there is no such model, or if method, model and task do not fit each other."""
    pretrained.check_available(settings.model)
    _check_method(json.dumps(settings.method), names, settings.model, task, Limits.of(settings))


@functools.lru_cache(maxsize=1024)
def _check_method(method: str, names: Names, model: ModelSettings, task: Task, limits: Limits) -> None:
    """Check what the runs of a sweep share once for all of them."""
    _method(method, names, model, task, limits)


def _method(settings: str, names: Names, model: ModelSettings, task: Task, limits: Limits) -> Method:
    """The method object of these settings, checked against the task and against the model's shapes."""
    method: Method = build(json.loads(settings))
    if task.kind not in method.kinds:
        served = ", ".join(sorted(method.kinds))
        raise SettingsError(f"method={names.method} serves {served}; task={names.task} is {task.kind}.")
    method.max_length = limits.max_length
    anatomy = pretrained.skeleton(model, task.kind, task.outputs)
    if limits.max_length is not None and anatomy.positions is not None and limits.max_length > anatomy.positions:
        raise SettingsError(
            f"training.max_length={limits.max_length} is more than model={names.model} has positions; at most "
            f"{anatomy.positions} will do."
        )
    method.check(anatomy)
    if limits.max_steps is not None:
        method.plan_steps(limits.max_steps)
    return method


def build(settings: Mapping[str, Any]) -> Any:
    """The object that `_target_` names, with the other settings as arguments; its UserErrors come through as such."""
    try:
        return hydra.utils.instantiate(dict(settings), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from error
        raise SettingsError(f"{settings.get('_target_')} cannot be built: {one_line(error)}") from error
