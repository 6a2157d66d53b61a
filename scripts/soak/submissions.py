"""Starts of a sweep as a user makes them, and what can be seen of them from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.identity import ID_LENGTH
from bench.records import checkpoint
from bench.records.store import ADAPTER_FOLDER, HISTORY_FILE, PREDICTIONS_FILE, RECORD_FILE

ROOT = Path(__file__).resolve().parents[2]
RUN_FOLDER = rf"[0-9a-f]{{{ID_LENGTH}}}"
AIMS = {
    "a fresh working folder": re.compile(rf"\.{RUN_FOLDER}"),
    "a checkpoint being written": re.compile(rf"{re.escape(checkpoint.FILE)}\..*\.partial"),
    "an adapter being saved": re.compile(ADAPTER_FOLDER),
    "a record being written": re.compile(rf"{re.escape(RECORD_FILE)}\..*\.partial"),
    "a run that gets its name": re.compile(RUN_FOLDER),
}
"""Names of files and folders whose appearance marks a delicate moment."""
FILES_OF_PHASES = {
    RECORD_FILE: "at the end",
    PREDICTIONS_FILE: "at the end",
    ADAPTER_FOLDER: "in evaluation",
    HISTORY_FILE: "in training",
}
"""What a run writes in each phase, the last phase first."""


class Submission:
    """One start of the sweep, in a process group of its own; its results lie in `folder`/results."""

    def __init__(self, folder: Path, overrides: Sequence[str], log: Path) -> None:
        command = [sys.executable, str(ROOT / "bench/run.py"), "-m", "results.dir=results", *overrides]
        self.folder = folder
        self.log = log
        self.disturbed = False
        """Whether the disk failed it, so that it may end with an error."""
        self.started_at = time.time()
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ},
            )

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def send(self, number: int) -> None:
        """A signal to the whole process group, as a terminal or a scheduler sends it."""
        if self.code is None:
            os.killpg(self._process.pid, number)

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it at once, and every process that it started."""
        self.send(signal.SIGKILL)
        self._process.wait()

    @property
    def phase(self) -> str:
        """How far the run is that this submission is at work on, by the files that it has written."""
        claim = f"pid={self._process.pid}\n"
        for lock in (self.folder / "results/runs").rglob(".*.lock"):
            if claim in _text(lock):
                written = _written_since(lock.with_suffix(""), self.started_at)
                return next((phase for name, phase in FILES_OF_PHASES.items() if name in written), "before training")
        return "before training"

    @property
    def last_words(self) -> str:
        """The last thing that it said in words."""
        lines = [line for line in _text(self.log).splitlines() if re.match(r"\w", line)]
        return lines[-1] if lines else ""

    @property
    def attempts(self) -> tuple[int, int]:
        """How many runs it began, and how many of them from a checkpoint."""
        text = _text(self.log)
        return len(re.findall(r": data \w+ \(", text)), text.count("goes on from step")


def appeared(runs: Path, aim: re.Pattern[str]) -> set[tuple[str, int]]:
    """Files and folders of such a name, each with its inode, so that a new one of an old name counts as new."""
    found = set()
    for folder, folders, files in os.walk(runs):
        for name in filter(aim.fullmatch, [*folders, *files]):
            path = os.path.join(folder, name)
            try:
                found.add((path, os.stat(path).st_ino))
            except FileNotFoundError:
                continue
    return found


def _written_since(folder: Path, since: float) -> set[str]:
    """Names of the files and folders in `folder` in which something is newer than `since`."""
    names = set()
    for path in folder.rglob("*"):
        try:
            if path.stat().st_mtime >= since:
                names.add(path.relative_to(folder).parts[0])
        except FileNotFoundError:
            continue
    return names


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
