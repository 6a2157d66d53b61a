"""A sweep's settings are looked at before its first run starts."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from bench import validation
from bench.settings import RunSettings


def check(overrides: Sequence[str]) -> int:
    """Compose and validate every run of a grid, so that a typo in the last is reported before the first is trained.

    Returns the number of runs. Raises what composing raises, or SettingsError.
    """
    runs = 0
    with hydra.initialize_config_dir(str(validation.CONFIGURATION), version_base="1.3"):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for batch in BasicSweeper.split_arguments(parsed, None):
            for job in batch:
                validated(*composed(job))
                runs += 1
    return runs


def composed(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration that these overrides make, and the choice on each axis; Hydra must be initialised."""
    config = hydra.compose("config", list(overrides), return_hydra_config=True)
    choices = {str(axis): str(choice) for axis, choice in config.hydra.runtime.choices.items()}
    with open_dict(config):
        del config["hydra"]
    return config, choices


def validated(config: DictConfig, choices: Mapping[str, str]) -> RunSettings:
    """The typed settings of a composed configuration. Raises SettingsError."""
    defaults = {section: _chosen_yaml(section, choices[section]) for section in validation.OPEN_SECTIONS}
    return validation.validate(config, defaults)


@functools.cache
def _chosen_yaml(section: str, choice: str) -> dict[str, Any]:
    """What the chosen YAML of an open section says, before the command line changed it."""
    values = OmegaConf.to_object(hydra.compose("config", [f"{section}={choice}"])[section])
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
