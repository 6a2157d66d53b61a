"""The folder in which one run works, claimed by one process at a time on any machine that shares the disk.

Beside a run's final folder `<run id>` stand `.<run id>`, where it writes while it works, and `.<run id>.lock`, the
claim: a lease that its owner's heartbeat renews and that dies with it, at once on the same machine and on another for
those who have watched it for `LEASE_SECONDS` without a heartbeat. When the run has ended, its working folder takes the
final name. What stood there before (a failed attempt, or a finished run that was repeated on request) is kept beside it
as `<run id>~<n>`. An interrupted run keeps its working folder, with the checkpoint from which the next process goes on.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLease, Timeout

from bench.files import write_json
from bench.records import checkpoint
from bench.records.pulse import PROGRESS_FILE
from bench.records.record import RunRecord
from bench.records.schema import RecordError, read
from bench.records.store import RECORD_FILE

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.5
TOO_LARGE_FILE = "too-large.json"
"""Sizes of forward passes that did not fit in memory, for the process that goes on from the checkpoint."""


class Held(Exception):
    """Another process is at work on the run."""


class ClaimLost(Exception):
    """This process was silent for so long that another one may have taken the run over."""


@dataclass(frozen=True)
class Workspace:
    """A claimed run: `final` is where its record will stand, `folder` is where it works until then."""

    final: Path
    folder: Path
    _lease: SoftFileLease

    @property
    def too_large(self) -> tuple[int, ...]:
        """Sizes of forward passes that did not fit in memory before the run was interrupted."""
        with contextlib.suppress(OSError, ValueError):
            return tuple(json.loads((self.folder / TOO_LARGE_FILE).read_text()))
        return ()

    def note_too_large(self, sizes: Sequence[int]) -> None:
        """Keep them for the process that goes on after an interruption."""
        write_json(self.folder / TOO_LARGE_FILE, list(sizes))

    def clear(self) -> None:
        """Start from nothing. Raises ClaimLost."""
        self.check_claim()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def resumable(self) -> bool:
        """Whether an interrupted process left something to go on from."""
        return (self.folder / checkpoint.FILE).exists()

    def leave(self) -> None:
        """End without a checkpoint: a record takes its place unless a complete one is there; what has none is gone."""
        ended = _record_in(self.final)
        if self.record() is None or (ended is not None and ended.status == "complete"):
            self.clear()
        else:
            self.publish()

    def record(self) -> RunRecord | None:
        """The record that stands in the working folder, if there is a readable one."""
        return _record_in(self.folder)

    def check_claim(self) -> None:
        """Raise ClaimLost if the claim has run out, as it does when this process is stopped for minutes."""
        if self._lease.compromise is not None:
            raise ClaimLost(f"another process may have taken over {self.final}")

    def publish(self) -> None:
        """Give the working folder its final name; what stood there is set aside. Raises ClaimLost."""
        self.check_claim()
        for passing in (checkpoint.FILE, PROGRESS_FILE, TOO_LARGE_FILE, "*.partial"):
            for file in self.folder.glob(passing):
                file.unlink()
        set_aside(self.final)
        self.folder.rename(self.final)


def _record_in(folder: Path) -> RunRecord | None:
    with contextlib.suppress(OSError, ValueError, RecordError):
        return read(json.loads((folder / RECORD_FILE).read_text()))
    return None


@contextlib.contextmanager
def claimed(final: Path, wait: bool = False) -> Iterator[Workspace]:
    """Claim the run whose record belongs into `final`; with `wait`, once its owner has ended or died.

    Raises Held where another process works on it.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    lease = SoftFileLease(lock_file(final), lease_duration=LEASE_SECONDS, poll_interval=POLL_SECONDS)
    while not _acquired(lease, final):
        if not wait:
            raise Held(f"another process ({owner(final)}) is at work on this run")
        time.sleep(POLL_SECONDS)
    folder = working_folder(final)
    try:
        folder.mkdir(exist_ok=True)
        yield Workspace(final, folder, lease)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was written
        lease.release()


def outwait_dead_owner(final: Path) -> None:
    """Release the claim of a process that died, wherever that was; takes `LEASE_SECONDS` if it was elsewhere.

    Raises Held where its owner lives.
    """
    deadline = time.monotonic() + 2 * LEASE_SECONDS
    lease = SoftFileLease(lock_file(final), lease_duration=LEASE_SECONDS, poll_interval=POLL_SECONDS)
    while lock_file(final).exists() and not _acquired(lease, final):
        if time.monotonic() > deadline:
            raise Held(f"another process ({owner(final)}) is at work on this run")
        time.sleep(POLL_SECONDS)
    lease.release()


def _acquired(lease: SoftFileLease, final: Path) -> bool:
    """Whether the claim could be laid just now."""
    _drop_nameless_claim(lock_file(final))
    try:
        lease.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _drop_nameless_claim(lock: Path) -> None:
    """Remove a claim that lost its text when its owner's machine died; nobody could tell whether its owner lives."""
    with contextlib.suppress(OSError):
        found = lock.stat()
        if found.st_size == 0 and time.time() - found.st_mtime > LEASE_SECONDS:
            lock.unlink()


def tidy(final: Path) -> None:
    """Remove what a process left that died right after its run had ended."""
    if lock_file(final).exists() or working_folder(final).exists():
        with contextlib.suppress(Held, OSError), claimed(final):
            pass


def working_folder(final: Path) -> Path:
    """Where a run works until it has ended."""
    return final.with_name(f".{final.name}")


def lock_file(final: Path) -> Path:
    """Whose existence claims a run."""
    return final.with_name(f".{final.name}.lock")


def owner(final: Path) -> str | None:
    """Which process claims a run, in words; None where none does. A claim of a dead process still counts."""
    claim = _claim(final)
    return None if claim is None else f"process {claim.get('pid', '?')} on {claim.get('host', '?')}"


def is_claimed(final: Path) -> bool:
    """Whether a process that gives signs of life claims a run."""
    claim = _claim(final)
    if claim is None:
        return False
    if claim.get("host") == socket.gethostname():
        return Path(f"/proc/{claim.get('pid')}").exists() or sys.platform != "linux"
    with contextlib.suppress(OSError):
        return time.time() - lock_file(final).stat().st_mtime < LEASE_SECONDS
    return False


def _claim(final: Path) -> dict[str, str] | None:
    """What a claim says of its owner."""
    try:
        lines = lock_file(final).read_text().splitlines()
    except OSError:
        return None
    return dict(line.split("=", 1) for line in lines if "=" in line)


def set_aside(folder: Path) -> None:
    """Keep what stands in `folder` under the next free `<name>~<n>`."""
    if folder.exists():
        number = 1
        while (kept := folder.with_name(f"{folder.name}~{number}")).exists():
            number += 1
        folder.rename(kept)
