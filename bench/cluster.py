"""Runs as jobs of a SLURM cluster: what a job does on its nodes, how jobs are submitted, and how they end.

submitit pickles the jobs, writes the batch script and carries tracebacks back. States come from SLURM itself, since a
job that is cancelled or killed leaves nothing behind.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.errors import SettingsError, one_line
from bench.signals import Stopped
from bench.store import RECORD_FILE

if TYPE_CHECKING:
    from rich.console import Console
    from submitit import Job
    from submitit.helpers import DelayedSubmission

    from bench.planning import Plan
    from bench.settings import HardwareSettings

ROOT = Path(__file__).resolve().parents[1]
ARRAY_LIMIT = 1000
"""Jobs of one array; SLURM's default MaxArraySize is 1001."""
TIME_LIMITS = 20
"""How often a job that meets its time limit is queued again."""
MASTER_PORTS = range(10000, 20000)
"""Below the ports that the kernel hands out itself."""
POLL_SECONDS = (2.0, 30.0)
COMMAND_SECONDS = 60.0
PATIENCE_SECONDS: Mapping[str | None, float] = {"COMPLETED": 10.0, "FAILED": 10.0, None: 300.0}
"""How long a job's result is waited for: a shared disk may show it late, and SLURM may be silent for a while."""
TAIL_CHARACTERS = 3000

FAILED = 1
"""Exit code of a run that failed and left a record."""
RUNNING = ("RUNNING", "SIGNALING")
STOPPED = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
ENDED = ("COMPLETED", "FAILED", *STOPPED)


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
        from bench.run import run_in_job

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
                return f"{error}\n{tail(Path(self.folder) / 'traceback.txt')}"
        sys.stderr.flush()
        return f"exit code {code}, and no record; the log ends:\n{tail(JobEnvironment().paths.stderr)}"


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


def this_job() -> dict[str, str]:
    """What SLURM says about the job around this process; empty where it does not answer."""
    text = _output(["scontrol", "show", "job", "--oneliner", os.environ.get("SLURM_JOB_ID", "")])
    return dict(field.split("=", 1) for field in text.split() if "=" in field)


def node_rank() -> int:
    """Which node of its job this one is, from 0."""
    return int(os.environ.get("SLURM_NODEID", 0))


def node_count() -> int:
    """Nodes of this process's job; 1 outside SLURM."""
    return int(os.environ.get("SLURM_NNODES", 1))


def master_address() -> str:
    """The job's first node, where all its processes meet; this machine for a single node."""
    if node_count() == 1:
        return "127.0.0.1"
    from submitit.slurm.slurm import SlurmJobEnvironment

    return SlurmJobEnvironment().hostnames[0]


def master_port() -> int | None:
    """A port that jobs side by side on a machine do not share; None outside SLURM."""
    job_id = os.environ.get("SLURM_JOB_ID")
    return None if job_id is None else MASTER_PORTS[int(job_id) % len(MASTER_PORTS)]


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


@dataclass(frozen=True)
class Outcome:
    """How a job ended: SLURM's word for it, and what went wrong, if anything did.

    `error` is the traceback of the job's own exception, or else the end of its log.
    """

    index: int
    job_id: str
    state: str
    error: str | None


def watch(
    jobs: Sequence[Job[None]], console: Console, ended: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Wait until all jobs have ended for good, telling `ended` of each at once; the outcomes in the jobs' order.

    Jobs that are queued again are followed. After Ctrl-C the jobs go on, and KeyboardInterrupt is raised again.
    """
    outcomes = []
    try:
        for outcome in _as_they_end(jobs, console):
            outcomes.append(outcome)
            ended(outcome)
    except KeyboardInterrupt:
        console.print(left_running(jobs))
        raise
    return sorted(outcomes, key=lambda outcome: outcome.index)


def left_running(jobs: Sequence[Job[None]]) -> str:
    """A sentence about jobs that nobody watches any more."""
    arrays = _arrays(job.job_id for job in jobs)
    return f"The jobs go on: `squeue --jobs={arrays}` shows them, `scancel {arrays.replace(',', ' ')}` ends them."


def states(job_ids: Iterable[str]) -> dict[str, str]:
    """SLURM's word for the state of each job that it knows; a waiting job's with the reason, "PENDING (Priority)".

    The controller is asked first, since accounting lags behind and may be off; it forgets ended jobs after a while.
    """
    wanted = set(job_ids)
    arrays = f"--jobs={_arrays(wanted)}"
    found = _table(["squeue", "--noheader", "--all", "--array", "--states=all", "--format=%i|%T|%r", arrays])
    if not wanted <= found.keys():
        found = _table(["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", arrays]) | found
    return {job_id: state for job_id, state in found.items() if job_id in wanted}


def tail(file: Path) -> str:
    """The end of a text file; empty where there is none."""
    with contextlib.suppress(OSError):
        return file.read_text(errors="replace")[-TAIL_CHARACTERS:].strip()
    return ""


def _as_they_end(jobs: Sequence[Job[None]], console: Console) -> Iterator[Outcome]:
    waiting = [_Watched(index, job) for index, job in enumerate(jobs)]
    started, shown = time.monotonic(), ""
    while waiting:
        found = states(watched.job.job_id for watched in waiting)
        outcomes = {watched.index: watched.outcome(found.get(watched.job.job_id)) for watched in waiting}
        yield from (outcome for outcome in outcomes.values() if outcome is not None)
        waiting = [watched for watched in waiting if outcomes[watched.index] is None]
        counts = collections.Counter(found.get(watched.job.job_id, "UNKNOWN") for watched in waiting)
        words = [f"{len(jobs) - len(waiting)} of {len(jobs)} ended", *(f"{n} {state}" for state, n in counts.items())]
        if (line := ", ".join(words)) != shown:
            console.print(f"SLURM {_arrays(job.job_id for job in jobs)}: {line}")
            shown = line
        if waiting:
            shortest, longest = POLL_SECONDS
            time.sleep(min(longest, max(shortest, (time.monotonic() - started) / 20)))


class _Watched:
    """A job that is waited for, and since when it has been in its present state."""

    def __init__(self, index: int, job: Job[None]) -> None:
        self.index, self.job = index, job
        self._state: str | None = None
        self._since = time.monotonic()

    def outcome(self, state: str | None) -> Outcome | None:
        """How the job ended, given its state; None while it has not, or may yet show its result."""
        now = time.monotonic()
        if state != self._state:
            self._state, self._since = state, now
        if state is not None and state not in ENDED:
            return None
        traces = self._traces()
        complete = len(traces) == self.job.num_tasks
        if not complete and not any(traces) and now - self._since < PATIENCE_SECONDS.get(state, 0):
            return None
        if state is None and complete:
            state = "FAILED" if any(traces) else "COMPLETED"
        error = next(filter(None, traces), None if complete else self._last_words(state))
        return Outcome(self.index, self.job.job_id, state or "UNKNOWN", error)

    def _traces(self) -> list[str | None]:
        """For each task that left a result: the traceback of its exception, or None."""
        from submitit.core.utils import pickle_load

        files = [self.job.task(number).paths.result_pickle for number in range(self.job.num_tasks)]
        results = [pickle_load(file) for file in files if file.exists()]
        return [value if kind == "error" else None for kind, value in results]

    def _last_words(self, state: str | None) -> str:
        """What is known about a job that ended without a result."""
        files = [self.job.task(number).paths.stderr for number in range(self.job.num_tasks)]
        texts = [text for text in map(tail, files) if text]
        what = f"SLURM does not know job {self.job.job_id} any more" if state is None else f"the job ended as {state}"
        return "\n".join([f"{what}, without a result; its log {files[0]} ends:", *(texts or ["(nothing)"])])


def _cancel(jobs: Sequence[Job[None]]) -> None:
    for job in jobs:
        job.cancel(check=False)


def _arrays(job_ids: Iterable[str]) -> str:
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
