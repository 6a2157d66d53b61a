"""A run of several Accelerate processes: started on this machine, watched, and ended together.

Each process is `bench/processes/worker.py` with the resolved settings. The variables of PyTorch's process groups (RANK,
WORLD_SIZE, ...) tell it its place, as a launcher of PyTorch or Accelerate would; starting the processes ourselves lets
stop signals reach them all, and lets the record name the process that failed first.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.bookkeeping import TRACEBACKS, closed, opened, traceback_file
from bench.cluster.node import master_address, master_port, node_rank
from bench.context import Terms
from bench.errors import SettingsError
from bench.files import write_json
from bench.hardware import usable_cores
from bench.processes import signals
from bench.processes.signals import Stopped
from bench.processes.team import ALONE, Team
from bench.records.record import RunRecord
from bench.records.schema import read
from bench.records.store import RECORD_FILE
from bench.records.workspace import working_folder

if TYPE_CHECKING:
    from rich.console import Console

    from bench.planning import Plan
    from bench.settings import HardwareSettings

WORKER = Path(__file__).with_name("worker.py")
REFUSED, STOPPED = 2, 3
"""Exit codes of a process beside 0 and 1."""
POLL_SECONDS = 0.1
STOP_SECONDS = 60.0
"""How long processes may take to finish their step and write a checkpoint; on SLURM, half of the warning it gives."""
SETTLE_SECONDS = 1.0
"""Within which the process that failed first and those that lost it all say why they ended."""
LOG_TAIL = 20


@dataclass(frozen=True)
class Failure:
    """Why one process ended."""

    rank: int
    status: str
    error: str
    traceback: str
    at: float


def launched(plan: Plan, terms: Terms) -> RunRecord:
    """Carry out a plan in several processes; its record lies in the folder.

    Raises SettingsError for input that turns out unusable, and Stopped.
    """
    for leftover in (terms.folder / RECORD_FILE, *terms.folder.glob(TRACEBACKS)):  # of an interrupted attempt
        leftover.unlink(missing_ok=True)
    with TemporaryDirectory(prefix="parsimony-") as scratch:
        group = _Group(plan, terms, Path(scratch))
        codes = group.wait()
        if REFUSED in codes.values():
            raise SettingsError(group.first_failure(codes).error)
        if terms.stop.number is not None or STOPPED in codes.values():
            raise Stopped(terms.stop.number or signal.SIGTERM)
        if any(codes.values()):
            return _failed(plan, terms, group.first_failure(codes))
        return read(json.loads((terms.folder / RECORD_FILE).read_text()))


def joined(plan: Plan, console: Console) -> int:
    """Start this machine's processes of a run that another machine leads; returns the exit code. Raises Stopped."""
    if plan.finished is not None:
        return 0
    with signals.listening() as stop, TemporaryDirectory(prefix="parsimony-") as scratch:
        folder, size = working_folder(plan.folder), plan.settings.hardware.per_device_batch_size
        group = _Group(plan, Terms(folder, console, stop, ALONE, size), Path(scratch))
        codes = group.wait()
        if stop.number is not None or STOPPED in codes.values():
            raise Stopped(stop.number or signal.SIGTERM)
        if not any(codes.values()):
            return 0
        failure = group.first_failure(codes)
        print(failure.traceback, failure.error, sep="\n", file=sys.stderr)
        return 1


class _Group:
    """The processes of one run on this machine."""

    def __init__(self, plan: Plan, terms: Terms, scratch: Path) -> None:
        self._terms = terms
        self._scratch = scratch
        hardware = plan.settings.hardware
        self._stop_seconds = _stop_seconds(hardware)
        assignment = scratch / "assignment.json"
        write_json(
            assignment,
            {
                "settings": asdict(plan.settings),
                "names": asdict(plan.names),
                "overrides": plan.overrides,
                "folder": str(terms.folder.resolve()),
                "scratch": str(scratch),
                "micro_batch_size": terms.micro_batch_size,
                "too_large": list(terms.too_large),
            },
        )
        spread = hardware.machines > 1  # else what SLURM says of this process's place concerns other runs
        first = node_rank() * hardware.processes if spread else 0
        shared = {
            "WORLD_SIZE": str(hardware.processes * hardware.machines),
            "LOCAL_WORLD_SIZE": str(hardware.processes),
            "MASTER_ADDR": master_address() if spread else "127.0.0.1",
            "MASTER_PORT": str((spread and master_port()) or _free_port()),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // hardware.processes))),
        }
        self.ranks = range(first, first + hardware.processes)
        self._processes = [self._started(assignment, rank, rank - first, shared) for rank in self.ranks]

    def _started(self, assignment: Path, rank: int, local_rank: int, shared: dict[str, str]) -> subprocess.Popen[bytes]:
        """A process; what it prints is shown if it is the first, else kept for the case that it fails."""
        place = {"RANK": str(rank), "LOCAL_RANK": str(local_rank)}
        with self._log(rank).open("wb") as log:
            shown = None if rank == 0 else log
            command = [sys.executable, str(WORKER), str(assignment)]
            return subprocess.Popen(command, env=os.environ | shared | place, stdout=shown, stderr=shown)

    def wait(self) -> dict[int, int]:
        """Exit codes by rank, of the processes that ended by themselves.

        One that fails takes the others with it; a request to stop is handed on to all.
        """
        try:
            self._wait_for_the_first_failure()
        finally:
            codes = {rank: process.poll() for rank, process in zip(self.ranks, self._processes, strict=True)}
            self._signal(signal.SIGKILL)
            for process in self._processes:
                process.wait()
        return {rank: code for rank, code in codes.items() if code is not None}

    def _wait_for_the_first_failure(self) -> None:
        """Return when all have ended, shortly after one has failed, or when they take too long to stop."""
        asked_at = None
        while any(process.poll() is None for process in self._processes):
            self._terms.check_claim()
            if self._terms.stop.number is not None and asked_at is None:
                asked_at = time.monotonic()
                self._signal(signal.SIGTERM)
            if asked_at is not None and time.monotonic() - asked_at > self._stop_seconds:
                return
            if any(_is_failure(process.poll()) for process in self._processes):
                time.sleep(SETTLE_SECONDS)
                return
            time.sleep(POLL_SECONDS)

    def first_failure(self, codes: Mapping[int, int]) -> Failure:
        """The process that was killed, if one was, for the others fail when they lose it; or the first to fail."""
        failures = [self._failure(rank, code) for rank, code in codes.items() if _is_failure(code)]
        killed = [failure for failure in failures if codes[failure.rank] < 0]
        return min(killed or failures, key=lambda failure: failure.at)

    def _failure(self, rank: int, code: int) -> Failure:
        """What a process said when it failed; or, where it could not say anything, how it ended."""
        path = error_file(self._scratch, rank)
        if path.exists():
            return Failure(**json.loads(path.read_text()))
        trace = traceback_file(self._terms.folder, Team(rank, len(self.ranks)))
        if trace.exists():  # the last words of a process that hung
            text = trace.read_text()
            return Failure(rank, "failed", f"process {rank}: {text.splitlines()[0]}", text, time.time())
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        log = self._log(rank).read_text(errors="replace").splitlines()[-LOG_TAIL:]
        return Failure(rank, "failed", f"process {rank} {how}{hint}", "\n".join(log), time.time())

    def _signal(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def _log(self, rank: int) -> Path:
        return self._scratch / f"process-{rank}.log"


def error_file(scratch: Path, rank: int) -> Path:
    """Where a process says why it failed."""
    return scratch / f"error-{rank}.json"


def _is_failure(code: int | None) -> bool:
    return code not in (None, 0, STOPPED)


def _stop_seconds(hardware: HardwareSettings) -> float:
    """How long processes may take to stop."""
    warning = hardware.slurm.signal_delay_seconds if hardware.slurm is not None and hardware.on_slurm else 0
    return warning / 2 or STOP_SECONDS


def _failed(plan: Plan, terms: Terms, failure: Failure) -> RunRecord:
    """The record of a failed run: what the first process had measured, and why the run failed.

    A run that was complete by then has not failed.
    """
    try:
        record = read(json.loads((terms.folder / RECORD_FILE).read_text()))
    except (OSError, ValueError):
        record = opened(plan)
        record.processes = plan.settings.hardware.processes * plan.settings.hardware.machines
        record.machines = plan.settings.hardware.machines
    if record.status == "complete":
        terms.console.print(f"the run was complete before a process failed: {failure.error}", markup=False)
        return record
    record.status, record.error = failure.status, failure.error
    record.score, record.metrics = None, {}
    traceback_file(terms.folder).write_text(failure.traceback)
    closed(record, terms.folder)
    return record


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
