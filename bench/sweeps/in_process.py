"""Runs carried out in this process, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.console import FAILED, refuse
from bench.errors import UserError, one_line
from bench.planning import Plan
from bench.processes.signals import Stopped
from bench.records import workspace
from bench.records.record import RunRecord
from bench.records.schema import RecordError
from bench.records.summary import table
from bench.records.workspace import ClaimLost, Held

if TYPE_CHECKING:
    from rich.console import Console


def carry_out_all(plans: Sequence[Plan], console: Console) -> int:
    """Runs one after another; those that another process is at work on come last, when it has ended."""
    codes, held = [], []
    for todo in plans:
        if todo.finished is not None:
            workspace.tidy(todo.folder)
            continue
        try:
            codes.append(_ended(todo, console, wait=False))
        except Held as error:
            console.print(f"{todo.name}: {error}; comes last")
            held.append(todo)
    codes += [_ended(todo, console, wait=True) for todo in held]
    return max(codes, default=0)


def _ended(todo: Plan, console: Console, wait: bool) -> int:
    """`carry_out` for one run among others: input that turns out unusable is refused, and the others go on."""
    try:
        return carry_out(todo, console, wait)
    except UserError as error:
        return refuse(error)


def carry_out(todo: Plan, console: Console, wait: bool) -> int:
    """Show the finished run, or do it now; returns the exit code.

    Raises UserError, Stopped, and Held where another process is at work on the run, unless told to `wait` for it.
    """
    if todo.finished is not None:
        console.print("This run is already finished (rerun=true repeats it).")
        report(todo.finished, todo.folder, console)
        return 0
    from bench.experiment import execute

    console.print(f"{todo.names.method} on {todo.names.task}: data {todo.source.kind} ({todo.source.reason})")
    try:
        record = execute(todo, console, wait)
    except Stopped as stop:
        console.print(f"{stop}; the same command goes on from where it came")
        raise
    except (OSError, ClaimLost, RecordError) as error:
        console.print(f"{todo.name} could not be recorded: {one_line(error)}")
        return FAILED
    report(record, todo.folder, console)
    return 0 if record.status == "complete" else FAILED


def report(record: RunRecord, folder: Path, console: Console) -> None:
    """Print the run's table."""
    console.print(table(record, folder))
