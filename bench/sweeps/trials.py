"""Trials of a study: what each tried, how it did, and which one's settings go into the runs that count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.settings import LEARNING_RATE
from bench.stats.outcomes import metric_of, outcomes

if TYPE_CHECKING:
    from pathlib import Path

    from bench.records.record import RunRecord


class TrialsFailedError(UserError):
    """The trials of a study do not allow a choice."""

    exit_code = 1


@dataclass(frozen=True, eq=False)
class Trial:
    """What was tried, by setting, and the score on held-out examples; None where the trial diverged or did not fit."""

    run_id: str
    values: Mapping[str, Any]
    score: float | None
    error: float = 0.0
    """Standard error of the score over those examples, in points; 0 where it is not known."""
    answers_alike: bool = False
    """Whether every example got the same answer, as from a classifier that has learned nothing or has collapsed."""

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.values[LEARNING_RATE])

    @property
    def others(self) -> dict[str, Any]:
        """The other settings that were tried."""
        return {key: value for key, value in self.values.items() if key != LEARNING_RATE}


def trial_of(record: RunRecord, folder: Path, values: Mapping[str, Any]) -> Trial:
    """What a record and the predictions beside it tell of a trial with these settings."""
    metric = metric_of(record.task, record.metric)
    found = None if metric is None else outcomes(folder, metric)
    if metric is None or found is None:
        return Trial(record.run_id, values, record.score)
    error = 100 * (metric.standard_error(found.values[None]) or 0.0)
    return Trial(record.run_id, values, record.score, error, found.answers_alike)


def chosen(trials: Sequence[Trial]) -> Trial:
    """The trial with the best held-out score, or the one like it at the next lower learning rate if that is as good.

    As good is a score within one standard error of the best. A rate at the edge of what is stable may do well in one
    short trial and fail in the runs that count, so of two neighbours that the trials do not tell apart the lower one is
    taken. A trial that answers every example alike scores what the commonest class does whatever its rate, so it counts
    only where all do; then the middle one of the rates is taken. Raises TrialsFailedError if no trial was completed.
    """
    completed = [trial for trial in trials if trial.score is not None]
    if not completed:
        raise TrialsFailedError(f"none of the {len(trials)} trials was completed, so nothing can be chosen.")
    scores = {trial: trial.score for trial in completed if not trial.answers_alike and trial.score is not None}
    if not scores:
        rates = sorted({trial.rate for trial in completed})
        return next(trial for trial in completed if trial.rate == rates[(len(rates) - 1) // 2])
    best = max(scores, key=lambda trial: (scores[trial], -trial.rate))
    lower = [trial for trial in trials if trial.rate < best.rate and trial.others == best.others]
    below = max(lower, key=lambda trial: trial.rate, default=best)
    return below if scores.get(below, -math.inf) >= scores[best] - best.error else best
