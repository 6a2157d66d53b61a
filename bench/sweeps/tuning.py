"""Settings chosen before the runs that count, with the same number of short trials for every method.

A study belongs to runs that differ in nothing but the seed. Its trials are runs of the budget `trial`: trained on a
part of the training split and scored on another, never on what is reported. They have records like any other run, so
the same command, started again, repeats none; and what is chosen follows from those records alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.errors import SettingsError
from bench.settings import LEARNING_RATE, RunSettings
from bench.sweeps import sweep
from bench.sweeps.samplers import TRIALS_OWN, quoted, sampler, setting_of
from bench.sweeps.sweep import Sweep
from bench.sweeps.trials import Trial, TrialsFailedError, chosen, trial_of

if TYPE_CHECKING:
    from rich.console import Console

    from bench.planning import Plan

OUTCOMES = ("complete", "diverged", "out_of_memory")
"""How a trial may end that tells something about its settings; any other end tells something about the machine."""


def studies(asked: Sweep) -> list[Study]:
    """The studies that the runs of a sweep need first."""
    by_settings: dict[tuple[str, ...], list[Plan]] = {}
    for todo in asked.plans:
        if todo.settings.tuning.to_do:
            own = tuple(override for override in todo.overrides if setting_of(override) != "seed")
            by_settings.setdefault(own, []).append(todo)
    return [Study(plans, list(own)) for own, plans in by_settings.items()]


def tuned(asked: Sweep, carry_out: Callable[[Sweep], object], console: Console) -> Sweep:
    """The runs of the sweep with their settings chosen; does the trials first. Raises SettingsError."""
    found = studies(asked)
    while rounds := [trials for study in found if (trials := study.next_trials()) is not None]:
        carry_out(sweep.merged(rounds))
        for study in found:
            study.note_scores()
    finals = [sweep.of_plans([todo for todo in asked.plans if not todo.settings.tuning.to_do], asked.refused)]
    for study in found:
        try:
            finals.append(study.finals())
            console.print(study.outcome())
        except TrialsFailedError as error:
            finals.append(sweep.of_plans([], [(study.overrides, error)]))
    return sweep.merged(finals)


@dataclass
class Study:
    """The trials of runs that differ in nothing but the seed; `overrides` is what the runs have in common."""

    plans: list[Plan]
    overrides: list[str]
    done: list[Trial] = field(default_factory=list)
    without_outcome: int = 0
    _under_way: list[Plan] = field(default_factory=list)

    @property
    def settings(self) -> RunSettings:
        """The settings of the runs that count, before any is chosen."""
        return self.plans[0].settings

    def next_trials(self) -> Sweep | None:
        """What to try next; None when all trials are done. Raises SettingsError."""
        tuning = self.settings.tuning
        proposals = sampler(self.settings).proposals(self.done)
        if not proposals:
            return None
        common = [override for override in self.overrides if not _is_trials_own(setting_of(override))]
        own = ["budget=trial", f"budget.max_steps={tuning.steps}", f"training.max_steps={tuning.steps}"]
        trials = sweep.planned([*common, *own, "measure=none", f"seed={tuning.seed}", *proposals])
        for _, error in trials.refused:
            raise error
        self._check_apart(trials)
        self._under_way = trials.plans
        return trials

    def _check_apart(self, trials: Sweep) -> None:
        """Raise SettingsError if what the trials are scored on is reported."""
        reported = {(todo.source.revision, todo.task) for todo in self.plans}
        if any((trial.source.revision, trial.task) in reported for trial in trials.plans):
            raise SettingsError(
                f"{self.plans[0].name}: these runs are scored on the very examples that tuning chooses on "
                "(task.protocol=select, budget=trial); tune runs that are scored elsewhere."
            )

    def note_scores(self) -> None:
        """Take down how the trials under way ended."""
        for trial in self._under_way:
            record = trial.store.ended(trial.folder)
            if record is None or record.status not in OUTCOMES:
                self.without_outcome += 1
            values = trial.settings.values(self.settings.tuning.keys)
            ended = Trial(trial.run_id, values, None) if record is None else trial_of(record, trial.folder, values)
            self.done.append(ended)
        self._under_way = []

    def finals(self) -> Sweep:
        """The runs that count, with the best trial's settings. Raises TrialsFailedError."""
        if self.without_outcome:
            raise TrialsFailedError(
                f"{self.without_outcome} of the {len(self.done)} trials failed or left no record, so the choice would "
                "not be among all; the same command does them again."
            )
        best = chosen(self.done)
        kept = [override for override in self.overrides if setting_of(override) not in best.values]
        run_ids = ",".join(f"'{trial.run_id}'" for trial in self.done)
        values = [f"{key}={quoted(value)}" for key, value in best.values.items()]
        seeds = ",".join(str(todo.settings.seed) for todo in self.plans)
        return sweep.planned([*kept, *values, f"tuning.run_ids=[{run_ids}]", f"seed={seeds}"])

    def outcome(self) -> str:
        """What was chosen among what, in a line."""
        best, names = chosen(self.done), self.plans[0].names
        values = ", ".join(f"{key}={value}" for key, value in best.values.items())
        rates = ", ".join(
            f"{trial.values[LEARNING_RATE]}: {'failed' if trial.score is None else f'{trial.score:.1f}'}"
            for trial in sorted(self.done, key=lambda trial: trial.rate)
        )
        return f"tuned {names.method} on {names.task}, {names.model}: {values} ({rates})"


def _is_trials_own(key: str) -> bool:
    return any(key == own or key.startswith(f"{own}.") for own in TRIALS_OWN)
