"""Jobs that have been submitted: followed until they have ended for good, and how they ended."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.cluster.job import tail
from bench.cluster.slurm import arrays, states

if TYPE_CHECKING:
    from rich.console import Console
    from submitit import Job

POLL_SECONDS = (2.0, 30.0)
PATIENCE_SECONDS: Mapping[str | None, float] = {"COMPLETED": 10.0, "FAILED": 10.0, None: 300.0}
"""How long a job's result is waited for: a shared disk may show it late, and SLURM may be silent for a while."""
STOPPED = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
ENDED = ("COMPLETED", "FAILED", *STOPPED)


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
    left = arrays(job.job_id for job in jobs)
    return f"The jobs go on: `squeue --jobs={left}` shows them, `scancel {left.replace(',', ' ')}` ends them."


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
            console.print(f"SLURM {arrays(job.job_id for job in jobs)}: {line}")
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
