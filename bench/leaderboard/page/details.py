"""What the page shows of a row beyond the board's own columns, read from the records of its first seed."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.leaderboard.columns import section
from bench.records.schema import decode
from bench.records.store import HISTORY_FILE, RECORD_FILE
from bench.records.summary import memory_by_cause

if TYPE_CHECKING:
    from bench.records.record import RunRecord

COMMAND = "python bench/run.py"
COMMIT_LENGTH = 12
POINTS = 50
"""A training curve is thinned to about so many points."""

Trials = Mapping[str, tuple[float, float]]
"""Learning rate and held-out score of each trial, by run id."""


@dataclass(frozen=True)
class Details:
    """One run, or the mean over several; two lists that belong together are parallel, as the charts flatten them."""

    commands: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    """The method's, by name."""
    commit: str | None = None
    """Of this project's code, its first characters."""
    own_rate: float | None = None
    """The learning rate that the method's settings bring where none is chosen."""
    at_edge: bool | None = None
    """Whether the chosen learning rate is the lowest or highest that tuning could choose."""
    causes: list[str] = field(default_factory=list)
    cause_bytes: list[float] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    phase_seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    rate_scores: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def details_of(folder: Path, trials: Trials) -> Details:
    """What the files of a run tell; empty where its record is gone or cannot be read."""
    try:
        record = decode((folder / RECORD_FILE).read_bytes())
    except (OSError, ValueError):
        return Details()
    settings = section(record, "method")
    causes, curve, rates = memory_by_cause(record), _history(folder), _best_of_rates(record, trials)
    return Details(
        commands=[" ".join((COMMAND, *map(_quoted, record.overrides)))],
        settings={name: value for name, value in settings.items() if name != "_target_"},
        commit=None if record.git_commit is None else record.git_commit[:COMMIT_LENGTH],
        own_rate=settings.get("learning_rate"),
        at_edge=record.tuned_at_edge,
        causes=list(causes),
        cause_bytes=list(causes.values()),
        phases=list(record.phase_seconds),
        phase_seconds=list(record.phase_seconds.values()),
        rates=list(rates),
        rate_scores=list(rates.values()),
        steps=list(curve),
        losses=list(curve.values()),
    )


def _quoted(word: str) -> str:
    """A word as a shell takes it; one that holds single quotes itself stays readable."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def mean_of(runs: Sequence[Details]) -> Details:
    """Several tasks' runs of one method as one: all commands, means of bytes and seconds; curves have no mean."""
    if len(runs) == 1:
        return runs[0]
    causes = _means([dict(zip(run.causes, run.cause_bytes, strict=True)) for run in runs])
    phases = _means([dict(zip(run.phases, run.phase_seconds, strict=True)) for run in runs])
    return Details(
        commands=[command for run in runs for command in run.commands],
        settings=runs[0].settings if runs and all(run.settings == runs[0].settings for run in runs) else {},
        causes=list(causes),
        cause_bytes=list(causes.values()),
        phases=list(phases),
        phase_seconds=list(phases.values()),
    )


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name; none unless all have the same names."""
    if len({frozenset(of_run) for of_run in values}) != 1:
        return {}
    return {name: sum(of_run[name] for of_run in values) / len(values) for name in values[0]}


def _history(folder: Path) -> dict[int, float]:
    """The loss by step of a run's training curve, thinned, as far as the file can be read."""
    found: dict[int, float] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        for line in (folder / HISTORY_FILE).read_text("utf-8").splitlines():
            point = json.loads(line)
            if math.isfinite(point["loss"]):
                found[int(point["step"])] = float(point["loss"])
    stride, last = -(-len(found) // POINTS), len(found) - 1
    return {step: loss for number, (step, loss) in enumerate(found.items()) if (last - number) % stride == 0}


def _best_of_rates(record: RunRecord, trials: Trials) -> dict[float, float]:
    """The best held-out score at each learning rate that was tried, in ascending order of the rates."""
    best: dict[float, float] = {}
    for run_id in record.trial_run_ids:
        if run_id in trials:
            rate, score = trials[run_id]
            best[rate] = max(score, best.get(rate, score))
    return dict(sorted(best.items()))
