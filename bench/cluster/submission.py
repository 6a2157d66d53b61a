"""Runs submitted as jobs, and what SLURM is asked for."""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cluster.job import RunJob
from bench.cluster.watching import Outcome, watch
from bench.console import FAILED
from bench.errors import SettingsError, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from submitit import Job

    from bench.planning import Plan
    from bench.settings import HardwareSettings

ROOT = Path(__file__).resolve().parents[2]
ARRAY_LIMIT = 1000
"""Jobs of one array; SLURM's default MaxArraySize is 1001."""
TIME_LIMITS = 20
"""How often a job that meets its time limit is queued again."""


def run_all(plans: Sequence[Plan], console: Console, folder: Path) -> int:
    """Carry out runs as jobs, one array for each kind of hardware; returns the exit code once all have ended.

    Logs and pickles go below `folder`. Raises SettingsError, and KeyboardInterrupt after Ctrl-C.
    """
    by_hardware: dict[str, list[Plan]] = {}
    for plan in plans:
        by_hardware.setdefault(repr(plan.settings.hardware), []).append(plan)
    ordered = [plan for alike in by_hardware.values() for plan in alike]
    jobs: list[Job[None]] = []
    try:
        for alike in by_hardware.values():
            runs = [RunJob(plan.overrides, str(plan.folder.resolve())) for plan in alike]
            jobs += submit(runs, alike[0].settings.hardware, folder.resolve())
    except SettingsError:
        _cancel(jobs)
        raise
    console.print(f"{len(jobs)} jobs submitted, logs in {folder}")

    def show(outcome: Outcome) -> None:
        console.print(f"{ordered[outcome.index].name}: job {outcome.job_id} {outcome.state}")
        if outcome.error is not None:
            console.print(outcome.error, markup=False)

    return FAILED if any(outcome.error is not None for outcome in watch(jobs, console, show)) else 0


def submit(jobs: Sequence[Callable[[], None]], hardware: HardwareSettings, folder: Path) -> list[Job[None]]:
    """Submit the jobs as one array, or as several where they are very many; logs and pickles go below `folder`.

    The folder must be visible on the nodes. Raises SettingsError, with no job left behind.
    """
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError
    except ImportError as error:
        raise SettingsError(
            f"hardware={hardware.name} needs the package submitit: pip install 'parsimony[slurm]'."
        ) from error
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise SettingsError(f"hardware={hardware.name} needs SLURM, but there is no sbatch on this machine.")
    executor = SlurmExecutor(folder=folder, max_num_timeout=TIME_LIMITS)
    executor.update_parameters(**parameters(hardware))
    submitted: list[Job[None]] = []
    try:
        for start in range(0, len(jobs), ARRAY_LIMIT):
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it also raises
                submitted += executor.submit_array(jobs[start : start + ARRAY_LIMIT])
    except FailedJobError as error:
        _cancel(submitted)
        reason = one_line(error).removeprefix("sbatch: error: ").partition(" sbatch: error: ")[0].rstrip(".")
        raise SettingsError(f"SLURM refuses the jobs of hardware={hardware.name}: {reason}.") from error
    return submitted


def parameters(hardware: HardwareSettings) -> dict[str, Any]:
    """The settings as submitit's SlurmExecutor names them; None is left to the cluster."""
    slurm = hardware.slurm
    assert slurm is not None
    gpus = f"gpu:{hardware.processes}" if hardware.device == "cuda" else None
    return {
        "job_name": "parsimony",
        "nodes": hardware.machines,
        "ntasks_per_node": 1,
        "cpus_per_task": slurm.cpus_per_task,
        "gres": slurm.gres or gpus,
        "mem": None if slurm.memory_gb is None else f"{round(slurm.memory_gb * 1024)}M",
        "time": slurm.time_minutes,
        "signal_delay_s": slurm.signal_delay_seconds,
        "array_parallelism": slurm.array_parallelism,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "setup": [f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}", *slurm.setup],
        # From 22.05 on, srun does not take the number of processors from the batch script.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={slurm.cpus_per_task}"],
        "additional_parameters": {"requeue" if slurm.requeue else "no-requeue": True}
        | {name: text or True for name, text in slurm.extra.items()},
    }


def _cancel(jobs: Sequence[Job[None]]) -> None:
    for job in jobs:
        job.cancel(check=False)
