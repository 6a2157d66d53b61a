"""One process of a run of several: `bench/processes/launch.py` starts it with the file that says what to do."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

# This folder must not stand on the import path, or its modules would shadow others; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from omegaconf import OmegaConf

from bench import recipe
from bench.bookkeeping import traceback_file
from bench.console import FAILED, new_console
from bench.context import Terms
from bench.errors import UserError, one_line
from bench.files import write_json
from bench.planning import Names, plan
from bench.processes import signals
from bench.processes.launch import REFUSED, STOPPED, Failure, error_file
from bench.processes.team import Team
from bench.records.record import RunRecord
from bench.settings import RunSettings

PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl that ends a process when its parent ends."""


def main() -> int:
    """Take part in a run; returns the exit code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    assignment = json.loads(Path(sys.argv[1]).read_text())
    team = Team(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    said = error_file(Path(assignment["scratch"]), team.rank)
    try:
        record = _work(assignment, team)
    except signals.Stopped:
        return STOPPED
    except UserError as error:
        write_json(said, asdict(Failure(team.rank, "failed", one_line(error), "", time.time())))
        return REFUSED
    except Exception as error:  # also one that kept the record from being written
        reason = f"process {team.rank}: {type(error).__name__}: {one_line(error)}"
        write_json(said, asdict(Failure(team.rank, "failed", reason, traceback.format_exc(), time.time())))
        return FAILED
    if record.status == "complete":
        _leave()
        return 0
    trace = _trace(Path(assignment["folder"]), team)
    reason = f"process {team.rank}: {record.error}"
    write_json(said, asdict(Failure(team.rank, record.status, reason, trace, time.time())))
    return FAILED


def _work(assignment: dict[str, Any], team: Team) -> RunRecord:
    """Carry out this process's part of the run. Raises UserError and Stopped."""
    merged = OmegaConf.merge(OmegaConf.structured(RunSettings), assignment["settings"])
    settings = OmegaConf.to_object(merged)
    assert isinstance(settings, RunSettings)
    todo = plan(settings, Names(**assignment["names"]), assignment["overrides"])
    if todo.hardware.device == "cuda":  # before anything else makes a context on the first GPU
        import torch

        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with signals.listening() as stop:
        terms = Terms(
            Path(assignment["folder"]),
            new_console(quiet=not team.is_first),
            stop,
            team,
            assignment["micro_batch_size"],
            tuple(assignment["too_large"]),
        )
        return recipe.attempt(todo, terms)


def _trace(folder: Path, team: Team) -> str:
    """The traceback that this process left; empty where it could not be written."""
    with contextlib.suppress(OSError):
        return traceback_file(folder, team).read_text()
    return ""


def _leave() -> None:
    """Leave the process group, as NCCL asks for; only where no process has failed, or this one would wait."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
