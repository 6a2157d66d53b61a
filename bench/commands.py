"""What commands have in common: how they refuse what cannot be done."""

from __future__ import annotations

from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bench import validation
from bench.console import refuse
from bench.errors import DataError, SettingsError, UserError, one_line
from bench.records.schema import RecordError


def exit_code_of(command: Callable[[], int]) -> int:
    """The exit code of a command; what it refuses becomes one sentence on standard error and, mostly, exit code 2."""
    try:
        return command()
    except (HydraException, OmegaConfBaseException) as error:
        return refuse(SettingsError(validation.explain(error)))
    except AssertionError as error:
        if validation.NO_ROOT not in str(error):
            raise
        return refuse(SettingsError(validation.explain(error)))
    except RecordError as error:
        return refuse(DataError(one_line(error)))
    except UserError as error:
        return refuse(error)
