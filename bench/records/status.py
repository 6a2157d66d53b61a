"""How far runs are, from what lies in the results folder alone: records, claims, signs of life, checkpoints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench.records import checkpoint, workspace
from bench.records.pulse import PROGRESS_FILE
from bench.records.store import RECORD_FILE

WAITING, RUNNING, INTERRUPTED, UNREADABLE = "waiting", "running", "interrupted", "unreadable"
DONE = "complete"
LONGEST_REASON = 300


@dataclass(frozen=True)
class RunStatus:
    """One run: a record's status, or waiting, running, interrupted, or unreadable."""

    folder: Path
    name: str
    status: str
    detail: str
    """Why it failed, how far it is, or who is at work on it."""


def of_runs(results: Path, folders: Sequence[Path]) -> list[RunStatus]:
    """The status of each run, given where its record stands or will stand, in order."""
    return [of_run(results, folder) for folder in folders]


def of_run(results: Path, folder: Path) -> RunStatus:
    """The status of one run."""
    name = str(folder.relative_to(results / "runs"))
    record = _json(folder / RECORD_FILE)
    claimed = workspace.is_claimed(folder)
    if record is not None and record.get("status") == DONE:
        return RunStatus(folder, name, DONE, "")
    if claimed:
        return RunStatus(folder, name, RUNNING, _progress(folder))
    if (workspace.working_folder(folder) / checkpoint.FILE).exists():
        return RunStatus(folder, name, INTERRUPTED, _progress(folder))
    if record is not None:
        return RunStatus(folder, name, str(record.get("status")), str(record.get("error")))
    if (folder / RECORD_FILE).exists():
        return RunStatus(folder, name, UNREADABLE, f"{folder / RECORD_FILE} cannot be read")
    return RunStatus(folder, name, WAITING, "")


def _progress(folder: Path) -> str:
    """How far a run that is or was at work is."""
    state = _json(workspace.working_folder(folder) / PROGRESS_FILE)
    owner = workspace.owner(folder)
    who = f", {owner}" if owner else ""
    return f"before its first step{who}" if state is None else f"step {state['step']} of {state['steps']}{who}"


def _json(path: Path) -> dict[str, Any] | None:
    """A file's values; None where it is absent or cut off."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def table(runs: Sequence[RunStatus]) -> Group:
    """How many runs have come how far, and every one that is not complete."""
    counts = Counter(run.status for run in runs)
    title = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    open_runs = [run for run in runs if run.status != DONE]
    if not open_runs:
        return Group(Text(title, style="bold"))
    grid = Table(title=title, title_justify="left")
    for column in ("run", "status", "why or how far"):
        grid.add_column(column, overflow="fold")
    for run in open_runs:
        grid.add_row(run.name, run.status, run.detail[:LONGEST_REASON])
    return Group(grid)
