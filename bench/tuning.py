"""Settings chosen before the runs that count, with the same number of short trials for every method.

A study belongs to runs that differ in nothing but the seed. Its trials are runs of the budget `trial`: trained on a
part of the training split and scored on another, never on what is reported. They have records like any other run, so
the same command, started again, repeats none; and what is chosen follows from those records alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bench import sweep
from bench.errors import SettingsError, UserError, nearest
from bench.settings import LEARNING_RATE, RunSettings, TuningSettings
from bench.sweep import Sweep
from bench.validation import NOT_SETTABLE

if TYPE_CHECKING:
    from rich.console import Console

    from bench.planning import Plan

TRIALS_OWN = ("seed", "budget", "tuning", "measure", "training.max_steps")
"""Settings that are a trial's own, whatever the runs that count have."""
DIGITS = 3


OUTCOMES = ("complete", "diverged", "out_of_memory")
"""How a trial may end that tells something about its settings; any other end tells something about the machine."""


class TrialsFailedError(UserError):
    """The trials of a study do not allow a choice."""

    exit_code = 1


@dataclass(frozen=True)
class Trial:
    """What was tried, by setting, and the score on held-out examples; None where the trial diverged or did not fit."""

    run_id: str
    values: Mapping[str, Any]
    score: float | None


class Sampler(Protocol):
    """Decides what is tried."""

    def proposals(self, done: Sequence[Trial]) -> list[str]:
        """Overrides that make the next trials, several values of a setting behind commas; none when all are done."""


def studies(asked: Sweep) -> list[Study]:
    """The studies that the runs of a sweep need first. Raises SettingsError for runs that cannot be tuned."""
    by_settings: dict[tuple[str, ...], list[Plan]] = {}
    for todo in asked.plans:
        if todo.settings.tuning.to_do:
            _check(todo.settings, todo.overrides)
            own = tuple(override for override in todo.overrides if _key(override) != "seed")
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
        proposals = _sampler(self.settings).proposals(self.done)
        if not proposals:
            return None
        common = [override for override in self.overrides if not _is_trials_own(_key(override))]
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
            score = None if record is None else record.score
            values = trial.settings.values(self.settings.tuning.keys)
            self.done.append(Trial(trial.run_id, values, score))
        self._under_way = []

    def finals(self) -> Sweep:
        """The runs that count, with the best trial's settings. Raises TrialsFailedError."""
        if self.without_outcome:
            raise TrialsFailedError(
                f"{self.without_outcome} of the {len(self.done)} trials failed or left no record, so the choice would "
                "not be among all; the same command does them again."
            )
        best = chosen(self.done)
        kept = [override for override in self.overrides if _key(override) not in best.values]
        run_ids = ",".join(f"'{trial.run_id}'" for trial in self.done)
        values = [f"{key}={_quoted(value)}" for key, value in best.values.items()]
        seeds = ",".join(str(todo.settings.seed) for todo in self.plans)
        return sweep.planned([*kept, *values, f"tuning.run_ids=[{run_ids}]", f"seed={seeds}"])

    def outcome(self) -> str:
        """What was chosen among what, in a line."""
        best, names = chosen(self.done), self.plans[0].names
        values = ", ".join(f"{key}={value}" for key, value in best.values.items())
        rates = ", ".join(
            f"{trial.values[LEARNING_RATE]}: {'failed' if trial.score is None else f'{trial.score:.1f}'}"
            for trial in sorted(self.done, key=lambda trial: float(trial.values[LEARNING_RATE]))
        )
        return f"tuned {names.method} on {names.task}, {names.model}: {values} ({rates})"


def chosen(trials: Sequence[Trial]) -> Trial:
    """The trial with the best held-out score, of equal ones that of the lowest learning rate.

    Raises TrialsFailedError if none was completed.
    """
    completed = [trial for trial in trials if trial.score is not None]
    if not completed:
        raise TrialsFailedError(f"none of the {len(trials)} trials was completed, so nothing can be chosen.")
    return max(completed, key=lambda trial: (trial.score, -float(trial.values[LEARNING_RATE])))


@dataclass(frozen=True)
class Grid:
    """Every combination of the extra settings with learning rates that lie evenly, in logarithms, around `rate`."""

    rate: float
    tuning: TuningSettings

    def proposals(self, done: Sequence[Trial]) -> list[str]:
        """All trials at once. Raises SettingsError where the extra settings cannot share the trials evenly."""
        if done:
            return []
        choices = self.tuning.choices
        combinations = math.prod(len(values) for values in choices.values())
        count, left = divmod(self.tuning.trials, combinations)
        if count == 0 or left:
            raise SettingsError(
                f"tuning.trials={self.tuning.trials} must be a multiple of {combinations}, the number of combinations "
                "of tuning.extra: every one is tried at the same number of learning rates."
            )
        rates = learning_rates(self.rate, self.tuning.span, count)
        return [f"{key}={','.join(map(_quoted, values))}" for key, values in {LEARNING_RATE: rates, **choices}.items()]


def learning_rates(rate: float, span: float, count: int) -> list[float]:
    """`count` rates from rate / span to rate * span, evenly in logarithms; `rate` itself where there is one."""
    steps = [0.0] if count == 1 else [2 * index / (count - 1) - 1 for index in range(count)]
    return [float(f"{rate * span**step:.{DIGITS}g}") for step in steps]


@dataclass(frozen=True)
class Optuna:
    """One trial after the other, by optuna's tree of Parzen estimators; `rate` is tried first.

    What is proposed depends on the trials done and on nothing else, so an interrupted study goes on as it would have.
    """

    rate: float
    tuning: TuningSettings

    def proposals(self, done: Sequence[Trial]) -> list[str]:
        """The next trial. Raises SettingsError where optuna is missing."""
        if len(done) >= self.tuning.trials:
            return []
        try:
            import optuna
        except ImportError as error:
            raise SettingsError("tuning=optuna needs the package optuna: pip install 'parsimony[tuning]'.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        distributions: dict[str, Any] = {
            LEARNING_RATE: optuna.distributions.FloatDistribution(
                self.rate / self.tuning.span, self.rate * self.tuning.span, log=True
            ),
            **{
                key: optuna.distributions.CategoricalDistribution(values) for key, values in self.tuning.choices.items()
            },
        }
        startup = max(2, self.tuning.trials // 3)
        sampler = optuna.samplers.TPESampler(n_startup_trials=startup, seed=self.tuning.seed + len(done))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in done:
            study.add_trial(_as_optuna(trial, distributions))
        if not done:
            study.enqueue_trial({LEARNING_RATE: self.rate})
        values = dict(study.ask(distributions).params)
        values[LEARNING_RATE] = float(f"{values[LEARNING_RATE]:.{DIGITS}g}")
        return [f"{key}={_quoted(value)}" for key, value in values.items()]


def _as_optuna(trial: Trial, distributions: Mapping[str, Any]) -> Any:
    """A trial that was done, as optuna writes it down; a rate that was rounded is put back into its range."""
    import optuna

    bounds = distributions[LEARNING_RATE]
    rate = min(max(float(trial.values[LEARNING_RATE]), bounds.low), bounds.high)
    state = optuna.trial.TrialState.FAIL if trial.score is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=state, params={**trial.values, LEARNING_RATE: rate}, distributions=dict(distributions), value=trial.score
    )


SAMPLERS: Mapping[str, Callable[[float, TuningSettings], Sampler]] = {"grid": Grid, "optuna": Optuna}


def _sampler(settings: RunSettings) -> Sampler:
    return SAMPLERS[settings.tuning.name](settings.method["learning_rate"], settings.tuning)


def _check(settings: RunSettings, overrides: Sequence[str]) -> None:
    """Raise SettingsError for a run that cannot be tuned."""
    if settings.seed == settings.tuning.seed:
        raise SettingsError(f"seed={settings.seed} is that of the trials (tuning.seed); runs that count need others.")
    warmup = settings.training.warmup_steps
    if warmup is not None and warmup >= settings.tuning.steps:
        raise SettingsError(
            f"training.warmup_steps={warmup} leaves nothing of a trial of tuning.steps={settings.tuning.steps}; use "
            "training.warmup_ratio, or longer trials."
        )
    for key in settings.tuning.keys:
        if key in map(_key, overrides):
            raise SettingsError(f"{key} is what tuning={settings.tuning.name} chooses and cannot be set as well.")
    tunable = [f"method.{name}" for name in settings.method if name not in NOT_SETTABLE]
    tunable += [f"training.{name}" for name in vars(settings.training)]
    tunable = [key for key in tunable if key not in (LEARNING_RATE, *TRIALS_OWN)]
    for key, values in settings.tuning.choices.items():
        if key not in tunable:
            raise SettingsError(f"tuning.extra.{key} is no setting to choose.{nearest(key, tunable)}")
        if not values:
            raise SettingsError(f"tuning.extra.{key} needs a list of values to choose among.")


def _key(override: str) -> str:
    """The setting of an override such as `method.rank=4`."""
    return override.partition("=")[0].lstrip("+~")


def _is_trials_own(key: str) -> bool:
    return any(key == own or key.startswith(f"{own}.") for own in TRIALS_OWN)


def _quoted(value: Any) -> str:
    """A value as Hydra's grammar reads it back."""
    if isinstance(value, str):
        return f"'{value}'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
