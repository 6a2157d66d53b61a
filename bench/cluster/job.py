"""What a job does on its nodes: one run, queued again where it is interrupted."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bench import settings
from bench.cluster.node import node_count, node_rank
from bench.cluster.slurm import this_job
from bench.console import FAILED, new_console, refuse
from bench.errors import UserError
from bench.processes.launch import joined
from bench.processes.signals import Stopped
from bench.records.store import RECORD_FILE, TRACEBACK_FILE
from bench.records.workspace import Held, outwait_dead_owner
from bench.sweeps import sweep
from bench.sweeps.in_process import carry_out

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

TAIL_CHARACTERS = 3000
RUNNING = ("RUNNING", "SIGNALING")


class RunFailed(Exception):
    """A run that ended without a complete record; raised in its job, so that SLURM too calls it failed."""


@dataclass(frozen=True)
class RunJob:
    """One run as submitit pickles it and calls it on every node of its job."""

    arguments: list[str]
    """Overrides, as on the command line of a single run."""
    folder: str
    """Where the run's record will stand."""

    def __call__(self) -> None:
        """Carry out the run. Raises RunFailed; ends the process where the job is queued again."""
        try:
            code = run_in_job(list(self.arguments))
        except Stopped as stop:
            queue_again(stop)
        if code:
            raise RunFailed(self._reason(code))

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts when the job is queued again: the same, since the run finds its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _reason(self, code: int) -> str:
        """What went wrong: the record's own word for a run that failed, else what was printed last."""
        from submitit import JobEnvironment

        if code == FAILED:
            with contextlib.suppress(OSError, ValueError, KeyError):
                error = json.loads((Path(self.folder) / RECORD_FILE).read_text())["error"]
                return f"{error}\n{tail(Path(self.folder) / TRACEBACK_FILE)}"
        sys.stderr.flush()
        return f"exit code {code}, and no record; the log ends:\n{tail(JobEnvironment().paths.stderr)}"


def run_in_job(arguments: Sequence[str]) -> int:
    """One run inside a cluster's job, from its overrides; returns the exit code. Raises Stopped.

    Where another process is at work on the run, a job on one node waits for its end, and goes on with what it leaves if
    it dies. One on several nodes fails, as its other nodes would wait in vain for this one.
    """
    settings.register()
    console = new_console()
    try:
        todo = sweep.planned(arguments)
        for _, error in todo.refused:
            return refuse(error)
        (only,) = todo.plans
        if node_rank() > 0:
            return joined(only, console)
        if only.settings.hardware.machines > 1 and only.finished is None:
            outwait_dead_owner(only.folder)
            return carry_out(only, console, wait=False)
        return carry_out(only, console, wait=True)
    except Held as error:
        print(error, file=sys.stderr)
        return FAILED
    except UserError as error:
        return refuse(error)


def queue_again(stop: Stopped) -> NoReturn:
    """End this job's process so that SLURM starts the job again later, from where the run stopped.

    Raises RunFailed where the job may not be queued again (`hardware.slurm.requeue=false`), and submitit's
    UncompletedJobError after too many time limits.
    """
    from submitit import JobEnvironment

    announcement = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
    requeue = signal.getsignal(announcement)
    for number in (announcement, signal.SIGUSR1, signal.SIGTERM, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)  # they come together, to this process and those that it starts now
    job = this_job()
    if job.get("Requeue") != "1" or not callable(requeue):
        raise RunFailed(f"{stop}; submit the same command again to go on")
    if job["JobState"] not in RUNNING:
        sys.exit(f"{stop}; SLURM has already decided what becomes of the job")
    if stop.number == signal.SIGTERM and node_count() > 1 and job.get("PreemptTime", "None") == "None":
        sys.exit(f"{stop}, as the job's task on another node has ended")  # as it might each time
    if node_rank() > 0:
        sys.exit(0)  # an error here would end the job before its first node has queued it again
    requeue(announcement, None)
    raise AssertionError("submitit's handler ends the process")


def tail(file: Path) -> str:
    """The end of a text file; empty where there is none."""
    with contextlib.suppress(OSError):
        return file.read_text(errors="replace")[-TAIL_CHARACTERS:].strip()
    return ""
