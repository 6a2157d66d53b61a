"""What SLURM's own commands say about jobs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable

COMMAND_SECONDS = 60.0


def this_job() -> dict[str, str]:
    """What SLURM says about the job around this process; empty where it does not answer."""
    text = _output(["scontrol", "show", "job", "--oneliner", os.environ.get("SLURM_JOB_ID", "")])
    return dict(field.split("=", 1) for field in text.split() if "=" in field)


def states(job_ids: Iterable[str]) -> dict[str, str]:
    """SLURM's word for the state of each job that it knows; a waiting job's with the reason, "PENDING (Priority)".

    The controller is asked first, since accounting lags behind and may be off; it forgets ended jobs after a while.
    """
    wanted = set(job_ids)
    which = f"--jobs={arrays(wanted)}"
    found = _table(["squeue", "--noheader", "--all", "--array", "--states=all", "--format=%i|%T|%r", which])
    if not wanted <= found.keys():
        found = _table(["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", which]) | found
    return {job_id: state for job_id, state in found.items() if job_id in wanted}


def arrays(job_ids: Iterable[str]) -> str:
    """The arrays that jobs belong to, separated by commas: "12" of "12_3" and "12_4"."""
    return ",".join(sorted({job_id.partition("_")[0] for job_id in job_ids}))


def _table(command: list[str]) -> dict[str, str]:
    """Job ids and states of a listing "id|state|reason"; without job steps."""
    found = {}
    for line in _output(command).splitlines():
        job_id, state, reason, *_ = [*line.split("|"), "", ""]
        if "." not in job_id and state:
            word = state.split()[0]  # of "CANCELLED by 1000"
            found[job_id] = f"{word} ({reason})" if word == "PENDING" and reason else word
    return found


def _output(command: list[str]) -> str:
    """What a command prints; empty where it cannot be had."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
