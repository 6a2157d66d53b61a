"""A sweep: every run composed and validated before the first one starts, then carried out here or handed to SLURM.

The runs of a sweep stand in `results/sweeps/<id>.json`, so that anyone can see how far it is from the records alone
(`bench/records/status.py`). The id follows from the runs: the same sweep started again is the same sweep.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from bench import validation
from bench.errors import SettingsError, StorageError, UserError, one_line
from bench.files import write_json
from bench.identity import ID_LENGTH, digest
from bench.planning import Names, Plan, plan
from bench.records import provenance
from bench.settings import RunSettings
from bench.sweeps import samplers

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = "sweeps"
SEED_REFERENCE = re.compile(r"\$\{[^}]*\bseed\b")


@dataclass(frozen=True)
class Sweep:
    """The runs that one command asks for, each planned; or why it cannot be planned."""

    id: str
    plans: list[Plan]
    refused: list[tuple[list[str], UserError]]

    @property
    def results(self) -> Path:
        """The folder that all its records go to."""
        return Path(self.plans[0].settings.results.dir)

    def write(self) -> Path:
        """Write down which runs the sweep has; returns the file."""
        path = self.results / FOLDER / f"{self.id}.json"
        runs = [
            {
                "run_id": todo.run_id,
                "folder": str(todo.folder.relative_to(self.results)),
                "name": todo.name,
                "overrides": todo.overrides,
            }
            for todo in self.plans
        ]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"id": self.id, "command": sys.argv[1:], "started_at": provenance.now(), "runs": runs})
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {one_line(error)}.") from error
        return path


def planned(overrides: Sequence[str]) -> Sweep:
    """Every run of a grid, planned. Raises what composing raises, or SettingsError, for the first bad setting.

    A run whose data or backbone cannot be had is refused alone.
    """
    plans: list[Plan] = []
    refused: list[tuple[list[str], UserError]] = []
    validated_runs = list(expanded(overrides))
    _check_one_place([settings for _, settings, _ in validated_runs])
    for own, settings, _ in validated_runs:
        samplers.check(settings, own)
    for own, settings, choices in validated_runs:
        try:
            plans.append(plan(settings, Names.of(choices), own))
        except UserError as error:
            refused.append((own, error))
    return of_plans(plans, refused)


def _check_one_place(runs: Sequence[RunSettings]) -> None:
    """Raise SettingsError unless all runs leave their records in one folder, and are done here or are SLURM's."""
    folders = sorted({run.results.dir for run in runs})
    if len(folders) > 1:
        raise SettingsError(
            f"results.dir must be the same for all runs of a sweep; these differ: {', '.join(folders)}."
        )
    if len({run.hardware.on_slurm for run in runs}) > 1:
        names = sorted({run.hardware.name for run in runs})
        raise SettingsError(
            f"Either all runs of a sweep go to SLURM or none does; this one has hardware={','.join(names)}."
        )


def of_plans(plans: Iterable[Plan], refused: Sequence[tuple[list[str], UserError]] = ()) -> Sweep:
    """The sweep of these runs, equal ones once."""
    distinct: dict[str, Plan] = {}
    for todo in plans:
        distinct.setdefault(todo.run_id, todo)
    identity = digest({"runs": sorted(distinct), "refused": sorted(" ".join(own) for own, _ in refused)})
    return Sweep(identity[:ID_LENGTH], list(distinct.values()), list(refused))


def merged(sweeps: Sequence[Sweep]) -> Sweep:
    """One sweep of the runs of several."""
    plans = [todo for part in sweeps for todo in part.plans]
    return of_plans(plans, [refusal for part in sweeps for refusal in part.refused])


def expanded(overrides: Sequence[str]) -> Iterator[tuple[list[str], RunSettings, dict[str, str]]]:
    """Each run of a grid: its own overrides, its settings, and its choice on each axis."""
    with hydra.initialize_config_dir(str(validation.CONFIGURATION), version_base="1.3"):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for batch in BasicSweeper.split_arguments(parsed, None):
            for own in batch:
                settings, choices = _with_seed(tuple(own))
                yield list(own), settings, choices


def _with_seed(overrides: tuple[str, ...]) -> tuple[RunSettings, dict[str, str]]:
    """The settings of one run. Runs that differ in nothing but the seed, on which no setting depends, compose once."""
    others = tuple(override for override in overrides if override.partition("=")[0].strip("+~") != "seed")
    seed = next((override for override in overrides if override not in others), "").removeprefix("seed=")
    if seed.isdecimal() and len(others) == len(overrides) - 1:
        settings, choices, depends_on_seed = _validated(others)
        if not depends_on_seed:
            validation.check_seed(int(seed))
            return replace(settings, seed=int(seed)), choices
    settings, choices, _ = _validated(overrides)
    return settings, choices


@functools.lru_cache(maxsize=64)
def _validated(overrides: tuple[str, ...]) -> tuple[RunSettings, dict[str, str], bool]:
    """The settings of one run, its choices, and whether a setting is worked out from the seed."""
    config, choices = composed(overrides)
    depends_on_seed = SEED_REFERENCE.search(OmegaConf.to_yaml(config)) is not None
    return validated(config, choices, overrides), choices, depends_on_seed


def composed(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration that these overrides make, and the choice on each axis; Hydra must be initialised."""
    config = hydra.compose("config", list(overrides), return_hydra_config=True)
    choices = {str(axis): str(choice) for axis, choice in config.hydra.runtime.choices.items()}
    with open_dict(config):
        del config["hydra"]
    return config, choices


def validated(config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str] = ()) -> RunSettings:
    """The typed settings of the configuration that these overrides make. Raises SettingsError."""
    for axis, choice in choices.items():
        if str(choice).rpartition("/")[2].startswith("_"):  # what other files begin with
            raise SettingsError(validation.unknown_option(f"{axis}/{choice}"))
    elsewhere = validation.search_paths(overrides)
    sections = validation.OPEN_SECTIONS
    defaults = {section: validation.described(section, choices[section], elsewhere) for section in sections}
    return validation.validate(config, defaults)


def announce(sweep: Sweep, console: Console) -> None:
    """Say what the sweep has and what is left of it."""
    finished = sum(todo.finished is not None for todo in sweep.plans)
    console.print(f"sweep {sweep.id}: {len(sweep.plans)} runs, {finished} of them finished")
    for own, error in sweep.refused:
        console.print(f"cannot run {' '.join(own)}: {one_line(error)}")
