"""Settings are checked here, before torch is imported and before anything is downloaded.

Three kinds of check: names (a key must stand in the schema or in the chosen YAML), types (that of the schema, or that
of the YAML's own value in the open sections `method` and `task`), and ranges (one table by word, for all sections).
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.errors import SettingsError, one_line, suggestion
from bench.requirements import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    Range,
    require_known,
    require_number,
)
from bench.settings import RunSettings, register

CONFIGURATION = Path(__file__).resolve().parents[1] / "conf"
SEARCH_PATH = "hydra.searchpath="
"""Where other packages keep configuration files of their own: the one override of Hydra's that belongs to a run."""
SEED_LIMIT = 2**32
NO_ROOT = "Unexpected type for root: NoneType"
"""What OmegaConf asserts where a setting stands below one that is null."""


RANGES: Mapping[str, Range] = {
    "alpha": POSITIVE,
    "array_parallelism": COUNT,
    "batch_size": COUNT,
    "bottleneck": COUNT,
    "checkpoint_minutes": POSITIVE,
    "checkpoint_steps": COUNT,
    "consistency_weight": NOT_NEGATIVE,
    "cpus_per_task": COUNT,
    "dropout": PROBABILITY,
    "epochs": POSITIVE,
    "evaluation_batch_size": COUNT,
    "evaluation_examples": COUNT,
    "image_size": COUNT,
    "initial_rank": COUNT,
    "keep_ratio": SHARE,
    "learning_rate": POSITIVE,
    "length": COUNT,
    "log_steps": COUNT,
    "machines": COUNT,
    "max_gradient_norm": POSITIVE,
    "max_length": Range(at_least=4),
    "max_new_tokens": COUNT,
    "max_steps": COUNT,
    "memory_gb": POSITIVE,
    "per_device_batch_size": COUNT,
    "processes": COUNT,
    "rank": COUNT,
    "span": Range(above=1),
    "steps": COUNT,
    "trials": COUNT,
    "ratio": COUNT,
    "reduction": COUNT,
    "seed": Range(at_least=0, below=SEED_LIMIT),
    "head_dropout": PROBABILITY,
    "signal_delay_seconds": NOT_NEGATIVE,
    "step_timeout_minutes": POSITIVE,
    "time_minutes": COUNT,
    "warmup_steps": NOT_NEGATIVE,
    "warmup_ratio": Range(at_least=0, at_most=1),
    "weight_decay": NOT_NEGATIVE,
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "data.source": ("auto", "hub", "mirror", "sample"),
    "hardware.device": ("auto", "cpu", "cuda", "mps"),
    "hardware.precision": ("auto", "bf16", "fp16", "fp32"),
    "training.schedule": ("constant", "cosine", "linear"),
    "tracker.name": ("none", "wandb"),
    "tuning.name": ("grid", "none", "optuna"),
}
OPEN_SECTIONS = ("method", "task")
NOT_SETTABLE = ("_target_", "facts", "peft_type")


def validate(config: DictConfig, defaults: Mapping[str, Mapping[str, Any]]) -> RunSettings:
    """The run's settings as typed objects.

    `defaults` holds, for each open section, what its YAML says before the command line changed it.
    Raises SettingsError with one sentence for the first thing that is wrong.
    """
    try:
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise SettingsError(explain(error)) from error
    assert isinstance(settings, RunSettings)
    for section in OPEN_SECTIONS:
        _check_open(section, getattr(settings, section), defaults[section])
    _check_ranges("", settings)
    processes = settings.hardware.processes * settings.hardware.machines
    if processes > settings.training.batch_size:
        raise SettingsError(
            f"training.batch_size={settings.training.batch_size} is too small for {processes} processes "
            "(hardware.processes on each of hardware.machines)."
        )
    slurm = settings.hardware.slurm
    if slurm is not None and slurm.signal_delay_seconds >= 60 * slurm.time_minutes:
        raise SettingsError(
            f"hardware.slurm.signal_delay_seconds={slurm.signal_delay_seconds} leaves nothing of "
            f"hardware.slurm.time_minutes={slurm.time_minutes}."
        )
    if settings.hardware.machines > 1 and not settings.hardware.on_slurm:
        raise SettingsError(
            f"hardware.machines={settings.hardware.machines} needs SLURM, which starts the processes on the other "
            "machines: choose hardware=slurm/NAME."
        )
    if settings.tracker.name == "wandb" and importlib.util.find_spec("wandb") is None:
        raise SettingsError("tracker=wandb needs the package wandb: pip install 'parsimony[wandb]'.")
    if settings.tuning.extra and settings.tuning.name == "none":
        raise SettingsError("tuning.extra needs tuning=grid or tuning=optuna.")
    if settings.hardware.split and processes == 1:
        raise SettingsError("hardware.split=true needs more than one process (hardware.processes, hardware.machines).")
    return settings


@functools.cache
def described(axis: str, choice: str, elsewhere: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """What the YAML of a choice says, before the command line changes it.

    `elsewhere` are the overrides that tell Hydra where else to look. Raises what Hydra raises for an unknown choice.
    """
    register()
    begun = GlobalHydra.instance().is_initialized()
    with nullcontext() if begun else hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        values = OmegaConf.to_object(hydra.compose("config", [*elsewhere, f"{axis}={choice}"])[axis])
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def search_paths(overrides: Sequence[str]) -> tuple[str, ...]:
    """Those of a run's overrides that tell Hydra where else to look for configuration."""
    return tuple(override for override in overrides if override.startswith(SEARCH_PATH))


def _check_open(section: str, values: Mapping[str, Any], default: Mapping[str, Any]) -> None:
    """Compare an open section with the YAML that it comes from: same keys, same types."""
    for key, value in values.items():
        name = f"{section}.{key}"
        if key not in default:
            raise SettingsError(f"{name} is no setting.{suggestion(key, _settable(default))}")
        expected = default[key]
        if key in NOT_SETTABLE and value != expected:
            raise SettingsError(f"{name} states a fact about the code and cannot be set.")
        if isinstance(expected, Mapping) and isinstance(value, Mapping):
            _check_open(name, value, expected)
        elif not _same_type(value, expected) or (section == "method" and value is None and expected is not None):
            shown = "null" if value is None else value
            raise SettingsError(f"{name}={shown} must be {_type_name(expected)}, like its default {expected}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"{name}={value} must be a finite number.")
        elif section == "method" and expected and isinstance(expected, list) and not value:
            raise SettingsError(f"{name}={value} must name at least one, like its default {expected}.")


def _settable(default: Mapping[str, Any]) -> list[str]:
    return [key for key in default if key not in NOT_SETTABLE]


def _same_type(value: object, expected: object) -> bool:
    if expected is None or value is None:
        return True
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return isinstance(value, (int, float))
    if isinstance(expected, list):
        return isinstance(value, (list, str))
    return isinstance(value, type(expected))


def _type_name(expected: object) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", list: "a list", str: "a word"}
    return names.get(type(expected), "a group of settings")


def _check_ranges(prefix: str, values: Any) -> None:
    items = ((f.name, getattr(values, f.name)) for f in fields(values)) if is_dataclass(values) else values.items()
    for key, value in items:
        name = f"{prefix}{key}"
        if is_dataclass(value) or isinstance(value, Mapping):
            _check_ranges(f"{name}.", value)
        elif name in CHOICES:
            require_known(name, value, CHOICES[name])
        elif key in RANGES and value is not None:
            for number in value if isinstance(value, list) else [value]:
                require_number(name, number, RANGES[key])


def check_seed(seed: int) -> None:
    """Raise SettingsError for a seed out of range."""
    require_number("seed", seed, RANGES["seed"])


def explain(error: BaseException) -> str:
    """What Hydra or OmegaConf refused, as one sentence with the nearest match."""
    text = str(error)
    absent = re.search(r"Could not find '([^']+)'", text)
    if absent:
        return unknown_option(absent.group(1), getattr(error, "options", None) or [])
    if "Ambiguous value" in text:
        what = text.splitlines()[0].replace("Ambiguous value for argument", "A list of values in")
        return f"{what}: add -m to sweep over it."
    if NO_ROOT in text:
        return "Settings below hardware.slurm belong to hardware=slurm/NAME."
    if "ConfigLoader is not set" in text:
        return "glob() cannot be used here: list the choices, as in method=lora,dora."
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown.group(1), error)
    wrong = re.search(r"Error merging override ([^\n]+)", text)
    if wrong and error.__cause__ is not None:
        return f"{wrong.group(1)}: {one_line(error.__cause__).split(' full_key:')[0]}."
    key = re.search(r"full_key: (\S+)", text)
    subject = key.group(1) if key else getattr(error, "override", None)
    first = one_line(error).split(" full_key:")[0].split(" See https://")[0].rstrip(".")
    return f"{subject}: {first}." if subject else f"{first}."


def unknown_option(path: str, beside: Sequence[str] = ()) -> str:
    """A sentence about a choice that an axis does not have, such as "task/glue/sst3"; `beside` it are these."""
    axis, _, name = path.partition("/")
    files = (CONFIGURATION / axis).rglob("*.yaml")
    options = [file.relative_to(CONFIGURATION / axis).with_suffix("").as_posix() for file in files]
    shown = sorted({option for option in (*options, *beside) if "/_" not in option})
    return f"{axis}={name} is unknown.{suggestion(name, shown)}"


def _unknown_key(key: str, error: BaseException) -> str:
    section, _, word = key.rpartition(".")
    parent = getattr(error.__cause__, "parent_node", None)
    if isinstance(parent, DictConfig) and not parent:
        return f"{key} is no setting yet: write +{key}=VALUE to add it."
    words = [str(name) for name in parent] if isinstance(parent, DictConfig) else [f.name for f in fields(RunSettings)]
    prefix = f"{section}." if section else ""
    return f"{prefix}{word} is no setting.{suggestion(word, [name for name in words if name not in NOT_SETTABLE])}"
