"""The main job: `python bench/run.py method=adalora task=glue/sst2`, or a sweep with `-m`.

Exit codes: 0 done, 1 a run failed or diverged, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# This folder must not stand on the import path, or its modules would shadow others; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from bench import settings, sweep, validation
from bench.errors import SettingsError, UserError, one_line
from bench.planning import Names, Plan, plan
from bench.record import RunRecord
from bench.summary import table

CONFIGURATION = "../conf"
FULL_ERROR = "HYDRA_FULL_ERROR"
WANTS_TRACEBACK = os.environ.get(FULL_ERROR) == "1"
MULTIRUN = ("-m", "--multirun")
FAILED, INTERRUPTED = 1, 130


def planned(config: DictConfig) -> Plan:
    """What a composed configuration asks for. Raises UserError."""
    hydra_settings = HydraConfig.get()
    choices = hydra_settings.runtime.choices
    names = Names(choices["method"], choices["task"], choices["model"])
    return plan(sweep.validated(config, choices), names, list(hydra_settings.overrides.task))


def run_one(config: DictConfig, console: Console) -> int:
    """Plan and carry out one run; returns its exit code."""
    try:
        return carry_out(planned(config), console)
    except UserError as error:
        return refuse(error)


def carry_out(todo: Plan, console: Console) -> int:
    """Show the finished run, or do it now; returns the exit code. Raises UserError and KeyboardInterrupt."""
    if todo.finished is not None:
        console.print("This run is already finished (rerun=true repeats it).")
        report(todo.finished, todo.folder, console)
        return 0
    from bench.experiment import execute

    console.print(f"{todo.names.method} on {todo.names.task}: data {todo.source.kind} ({todo.source.reason})")
    try:
        record = execute(todo, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; what was measured until then is in {todo.folder}")
        raise
    report(record, todo.folder, console)
    return 0 if record.status == "complete" else FAILED


def report(record: RunRecord, folder: Path, console: Console) -> None:
    """Print the run's table."""
    console.print(table(record, folder))


def refuse(error: UserError) -> int:
    """Print one sentence and give its exit code; the whole traceback on request."""
    if WANTS_TRACEBACK:
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr)
    return error.exit_code


def main() -> int:
    """Run what the command line asks for."""
    console = Console(soft_wrap=True, highlight=False)
    codes: list[int] = []
    settings.register()
    sweeping = [argument for argument in sys.argv[1:] if argument in MULTIRUN]
    rest = [argument for argument in sys.argv[1:] if argument not in MULTIRUN]
    sys.argv[1:] = sweeping + rest  # argparse takes no flag after an override

    @hydra.main(version_base="1.3", config_path=CONFIGURATION, config_name="config")
    def job(config: DictConfig) -> None:
        codes.append(run_one(config, console))

    os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors instead of printing them over many lines
    try:
        if sweeping:
            sweep.check([argument for argument in rest if not argument.startswith("-")])
        job()
    except (HydraException, OmegaConfBaseException) as error:
        return refuse(SettingsError(validation.explain(error)))
    except UserError as error:
        return refuse(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
