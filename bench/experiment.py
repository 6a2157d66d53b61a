"""One run from plan to record: claimed, tried until it fits in memory, and put in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench import recipe
from bench.context import Terms
from bench.planning import Plan
from bench.processes import signals
from bench.processes.launch import launched
from bench.processes.team import ALONE
from bench.records.record import RunRecord
from bench.records.store import ADAPTER_FOLDER
from bench.records.workspace import ClaimLost, Held, Workspace, claimed

if TYPE_CHECKING:
    from rich.console import Console


def execute(plan: Plan, console: Console, wait: bool = False) -> RunRecord:
    """Carry out a plan and leave its record, whatever happens; go on where an interrupted process had come.

    Raises UserError for input that turns out unusable before training (then there is no record), `workspace.Held`
    where another process is at work on the run (with `wait`, never), and `signals.Stopped` where this one was asked to
    stop; what it had done then lies in the run's working folder.
    """
    with _claimed(plan, console, wait) as workspace:
        finished = _published(plan, workspace)
        if finished is not None:
            return finished
        with signals.listening() as stop:
            try:
                record = _tried(plan, workspace, console, stop)
            except ClaimLost:
                stop.check()
                raise
            except BaseException:
                if not workspace.resumable:
                    workspace.leave()
                stop.check()  # a record that could not be written does not outweigh the request to stop
                raise
        workspace.publish()
    return record


@contextlib.contextmanager
def _claimed(plan: Plan, console: Console, wait: bool) -> Iterator[Workspace]:
    """The run's workspace; says so where it must wait for it."""
    with contextlib.ExitStack() as stack:
        try:
            workspace = stack.enter_context(claimed(plan.folder))
        except Held as error:
            if not wait:
                raise
            console.print(f"{error}; waiting for its end")
            workspace = stack.enter_context(claimed(plan.folder, wait=True))
        yield workspace


def _published(plan: Plan, workspace: Workspace) -> RunRecord | None:
    """The run's complete record, if another process has finished it meanwhile, or had only to give it its place."""
    ended = workspace.record()
    if ended is not None and (ended.status == "complete" or not workspace.resumable):
        workspace.publish()
        workspace.folder.mkdir()
    if not workspace.resumable:
        workspace.clear()
    return None if plan.settings.rerun else plan.store.finished(plan.folder)


def _tried(plan: Plan, workspace: Workspace, console: Console, stop: signals.StopRequest) -> RunRecord:
    """The record of the first attempt whose training fits in memory: each has forward passes of half the size."""
    hardware = plan.settings.hardware
    processes = hardware.processes * hardware.machines
    too_large = list(workspace.too_large if workspace.resumable else ())
    size = too_large[-1] // 2 if too_large else hardware.per_device_batch_size
    attempt = recipe.attempt if processes == 1 else launched
    while True:
        record = attempt(
            plan, Terms(workspace.folder, console, stop, ALONE, size, tuple(too_large), workspace.check_claim)
        )
        tried = min(size or plan.settings.training.batch_size, -(-plan.settings.training.batch_size // processes))
        trained = (workspace.folder / ADAPTER_FOLDER).exists()
        if record.status != "out_of_memory" or trained or tried == 1 or hardware.machines > 1:
            return record
        too_large.append(tried)
        size = tried // 2
        console.print(f"{tried} examples do not fit in memory at once; tried again with {size}")
        workspace.clear()
        workspace.note_too_large(too_large)
