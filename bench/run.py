"""The main job: `python bench/run.py method=adalora task=glue/sst2`, or a sweep with `-m`.

Exit codes: 0 done, 1 a run failed or diverged, 2 bad input, 130 interrupted by Ctrl-C, 128 + n stopped by signal n.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# This folder must not stand on the import path, or its modules would shadow others; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from bench import settings, validation
from bench.commands import exit_code_of
from bench.console import FULL_ERROR, new_console
from bench.errors import UserError
from bench.planning import Names, Plan, plan
from bench.processes.signals import Stopped
from bench.records import status
from bench.sweeps import samplers, sweep
from bench.sweeps.in_process import carry_out, carry_out_all
from bench.sweeps.sweep import Sweep

CONFIGURATION = "../conf"
MULTIRUN = ("-m", "--multirun")
SIGNALLED = 128


def main() -> int:
    """Run what the command line asks for."""
    settings.register()
    arguments = [argument for argument in sys.argv[1:] if argument not in MULTIRUN]
    options = [argument for argument in arguments if argument.startswith("-")]
    console = new_console()
    run = run_sweep if len(arguments) < len(sys.argv) - 1 and not options else run_single
    try:
        return exit_code_of(functools.partial(run, arguments, console))
    except Stopped as stop:
        return SIGNALLED + stop.number
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT


def run_single(arguments: Sequence[str], console: Console) -> int:
    """One run, or what Hydra's own options ask for (`--help`, `--cfg job`); returns the exit code."""
    sys.argv[1:] = arguments
    composed: list[Plan | UserError] = []

    @hydra.main(version_base="1.3", config_path=CONFIGURATION, config_name="config")
    def job(config: DictConfig) -> None:
        try:
            composed.append(_composed(config))
        except UserError as error:  # Hydra would add a line of its own
            composed.append(error)

    with _raising_errors():
        job()
    return max((_run_composed(found, console) for found in composed), default=0)


@contextlib.contextmanager
def _raising_errors() -> Iterator[None]:
    """Let Hydra raise its errors instead of printing them over many lines.

    Afterwards the variable has the user's own value again: jobs take it over, and print tracebacks where it is set.
    """
    own = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        del os.environ[FULL_ERROR]
        if own is not None:
            os.environ[FULL_ERROR] = own


def _composed(config: DictConfig) -> Plan:
    """The run that Hydra has composed. Raises UserError."""
    chosen = HydraConfig.get()
    choices = chosen.runtime.choices
    overrides = [*validation.search_paths(chosen.overrides.hydra), *chosen.overrides.task]
    validated = sweep.validated(config, choices, overrides)
    samplers.check(validated, overrides)
    return plan(validated, Names.of(choices), overrides)


def _run_composed(todo: Plan | UserError, console: Console) -> int:
    """Carry out a single run; returns the exit code. Raises UserError."""
    if isinstance(todo, UserError):
        raise todo
    if todo.settings.tuning.to_do:
        return run_sweep(todo.overrides, console)
    if todo.settings.hardware.on_slurm:
        return submit([todo], console, todo.run_id)
    return carry_out(todo, console, wait=True)


def run_sweep(arguments: Sequence[str], console: Console) -> int:
    """All runs of a grid that are not finished yet, after the trials that they need; returns the exit code."""
    todo = sweep.planned(arguments)
    if any(item.settings.tuning.to_do for item in todo.plans):
        from bench.sweeps import tuning

        todo = tuning.tuned(todo, functools.partial(_run_planned, console=console), console)
    code = _run_planned(todo, console)
    if todo.plans:
        console.print(status.table(status.of_runs(todo.results, [item.folder for item in todo.plans])))
    return max(code, *(error.exit_code for _, error in todo.refused), 0)


def _run_planned(todo: Sweep, console: Console) -> int:
    """The runs of a sweep that are not finished yet; returns the exit code."""
    sweep.announce(todo, console)
    if not todo.plans:
        return 0
    todo.write()
    if todo.plans[0].settings.hardware.on_slurm:
        return submit([item for item in todo.plans if item.finished is None], console, todo.id)
    return carry_out_all(todo.plans, console)


def submit(plans: Sequence[Plan], console: Console, name: str) -> int:
    """Hand runs to SLURM and wait for them; returns the exit code."""
    from bench.cluster.submission import run_all

    if not plans:
        return 0
    return run_all(plans, console, Path(plans[0].settings.results.dir) / sweep.FOLDER / name)


if __name__ == "__main__":
    sys.exit(main())
