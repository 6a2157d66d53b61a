"""What tests submit to a cluster in the place of real runs; submitit finds the classes by this module's name."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import DelayedSubmission

from bench.cluster import node
from bench.cluster.job import queue_again
from bench.processes.signals import Stopped, listening


@dataclass(frozen=True)
class Note:
    """Leaves a file that says where and when it ran."""

    folder: str
    seconds: float = 0.0

    def __call__(self) -> None:
        started_at = time.time()
        time.sleep(self.seconds)
        place = {"rank": node.node_rank(), "nodes": node.node_count()}
        place |= {"address": node.master_address(), "port": node.master_port()}
        place |= {"started_at": started_at, "ended_at": time.time()}
        (Path(self.folder) / f"{os.environ['SLURM_JOB_ID']}-{node.node_rank()}.json").write_text(json.dumps(place))


@dataclass(frozen=True)
class Raise:
    """Fails as Python code does."""

    message: str

    def __call__(self) -> None:
        raise ValueError(self.message)


@dataclass(frozen=True)
class Vanish:
    """Ends without a word: by an exit code, or by a signal where it is negative."""

    code: int

    def __call__(self) -> None:
        print("last words", file=sys.stderr, flush=True)
        if self.code < 0:
            os.kill(os.getpid(), -self.code)
        os._exit(self.code)


@dataclass(frozen=True)
class Ignore:
    """Runs on, whatever it is told."""

    def __call__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(600)


@dataclass(frozen=True)
class Count:
    """Counts like a training run: in steps, with a checkpoint of the last one when it is asked to stop."""

    file: str
    steps: int
    failing_node: int | None = None

    def __call__(self) -> None:
        try:
            with listening() as request:
                for step in range(len(self._done()), self.steps):
                    time.sleep(0.1)
                    request.check()
                    if node.node_rank() == 0:
                        with Path(self.file).open("a") as file:
                            file.write(f"{step} {os.environ.get('SLURM_RESTART_COUNT', 0)}\n")
                    if self.failing_node == node.node_rank() and step > 5:
                        raise ValueError("one node fails")
        except Stopped as stop:
            queue_again(stop)

    def checkpoint(self) -> DelayedSubmission:
        return DelayedSubmission(self)

    def _done(self) -> list[str]:
        return Path(self.file).read_text().splitlines() if Path(self.file).exists() else []
