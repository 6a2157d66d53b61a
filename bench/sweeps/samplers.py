"""What the trials of a study try: samplers of learning rates and of other settings, and which runs can be tuned.

A sampler decides from the trials done alone, so a study goes on where it was interrupted.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.errors import SettingsError, nearest
from bench.settings import LEARNING_RATE, RunSettings, TuningSettings
from bench.sweeps.trials import Trial
from bench.validation import NOT_SETTABLE

TRIALS_OWN = ("seed", "budget", "tuning", "measure", "training.max_steps")
"""Settings that are a trial's own, whatever the runs that count have."""
DIGITS = 3


class Sampler(Protocol):
    """Decides what is tried."""

    def proposals(self, done: Sequence[Trial]) -> list[str]:
        """Overrides that make the next trials, several values of a setting behind commas; none when all are done."""


@dataclass(frozen=True)
class Grid:
    """Every combination of the extra settings with learning rates that lie evenly, in logarithms, around `rate`."""

    rate: float
    tuning: TuningSettings

    def __post_init__(self) -> None:
        """Raise SettingsError where the extra settings cannot share the trials evenly."""
        if self.tuning.trials % self._combinations:
            raise SettingsError(
                f"tuning.trials={self.tuning.trials} must be a multiple of {self._combinations}, the number of "
                "combinations of tuning.extra: every one is tried at the same number of learning rates."
            )

    @property
    def _combinations(self) -> int:
        """How many combinations of the extra settings there are."""
        return math.prod(len(values) for values in self.tuning.choices.values())

    def proposals(self, done: Sequence[Trial]) -> list[str]:
        """All trials at once."""
        if done:
            return []
        choices = self.tuning.choices
        rates = learning_rates(self.rate, self.tuning.span, self.tuning.trials // self._combinations)
        return [f"{key}={','.join(map(quoted, values))}" for key, values in {LEARNING_RATE: rates, **choices}.items()]


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

    def __post_init__(self) -> None:
        """Raise SettingsError where optuna is missing."""
        if importlib.util.find_spec("optuna") is None:
            raise SettingsError("tuning=optuna needs the package optuna: pip install 'parsimony[tuning]'.")

    def proposals(self, done: Sequence[Trial]) -> list[str]:
        """The next trial."""
        if len(done) >= self.tuning.trials:
            return []
        import optuna

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
        return [f"{key}={quoted(value)}" for key, value in values.items()]


def _as_optuna(trial: Trial, distributions: Mapping[str, Any]) -> Any:
    """A trial that was done, as optuna writes it down; a rate that was rounded is put back into its range."""
    import optuna

    bounds = distributions[LEARNING_RATE]
    rate = min(max(trial.rate, bounds.low), bounds.high)
    state = optuna.trial.TrialState.FAIL if trial.score is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=state, params={**trial.values, LEARNING_RATE: rate}, distributions=dict(distributions), value=trial.score
    )


SAMPLERS: Mapping[str, Callable[[float, TuningSettings], Sampler]] = {"grid": Grid, "optuna": Optuna}


def sampler(settings: RunSettings) -> Sampler:
    """What decides on the trials of runs with these settings. Raises SettingsError where it cannot."""
    return SAMPLERS[settings.tuning.name](settings.method["learning_rate"], settings.tuning)


def check(settings: RunSettings, overrides: Sequence[str]) -> None:
    """Raise SettingsError if the run that these overrides make cannot be tuned as its settings ask."""
    if not settings.tuning.to_do:
        return
    if settings.seed == settings.tuning.seed:
        raise SettingsError(f"seed={settings.seed} is that of the trials (tuning.seed); runs that count need others.")
    warmup = settings.training.warmup_steps
    if warmup is not None and warmup >= settings.tuning.steps:
        raise SettingsError(
            f"training.warmup_steps={warmup} leaves nothing of a trial of tuning.steps={settings.tuning.steps}; use "
            "training.warmup_ratio, or longer trials."
        )
    for key in settings.tuning.keys:
        if key in map(setting_of, overrides):
            raise SettingsError(f"{key} is what tuning={settings.tuning.name} chooses and cannot be set as well.")
    own = [name for name in settings.method if name not in NOT_SETTABLE and name != "learning_rate"]
    tunable = [f"method.{name}" for name in own]
    tunable += [f"training.{name}" for name in vars(settings.training)]
    tunable = [key for key in tunable if key not in (LEARNING_RATE, *TRIALS_OWN)]
    for key, values in settings.tuning.choices.items():
        if key not in tunable:
            raise SettingsError(f"tuning.extra.{key} is no setting to choose.{nearest(key, tunable)}")
        if not values:
            raise SettingsError(f"tuning.extra.{key} needs a list of values to choose among.")
    sampler(settings)


def setting_of(override: str) -> str:
    """The setting of an override such as `method.rank=4`."""
    return override.partition("=")[0].lstrip("+~")


def quoted(value: Any) -> str:
    """A value as Hydra's grammar reads it back."""
    if isinstance(value, str):
        return f"'{value}'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
