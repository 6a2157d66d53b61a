"""What an attempt at a run works with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from bench.measure.meters import Meters
    from bench.measure.phases import Phases
    from bench.planning import Plan
    from bench.processes.signals import StopRequest
    from bench.processes.team import Team
    from bench.records.checkpoint import Checkpoints
    from bench.records.record import RunRecord
    from bench.tracker import Tracker
    from methods.base import Method


@dataclass(frozen=True)
class Terms:
    """Under which terms a plan is tried: where it writes, with whom, and in passes of what size."""

    folder: Path
    console: Console
    stop: StopRequest
    team: Team
    micro_batch_size: int | None
    """Examples of a forward pass in one process; None is its whole share of the batch."""
    too_large: tuple[int, ...] = ()
    """Sizes that did not fit in memory."""
    check_claim: Callable[[], None] = lambda: None
    """Raises ClaimLost where another process may be at work on the run."""


@dataclass
class Run:
    """What the steps of the recipe share."""

    plan: Plan
    terms: Terms
    method: Method
    record: RunRecord
    phases: Phases
    meters: Meters
    checkpoints: Checkpoints
    follower: Tracker

    @contextlib.contextmanager
    def phase(self, name: str, at_once: bool = False) -> Iterator[None]:
        """A phase, unless the run was asked to stop; one that changes nothing can be left at once. Raises Stopped."""
        stop = self.terms.stop
        stop.check()
        with self.phases(name), stop.at_once() if at_once else contextlib.nullcontext():
            yield
