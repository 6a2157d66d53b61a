"""What a person sees while a run trains: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.training.loop import LogPoint

LINE_SECONDS = 10.0


class Display(Protocol):
    """Shows how far training is."""

    def __call__(self, point: LogPoint) -> None:
        """Show the latest point."""


@contextlib.contextmanager
def display(console: Console, title: str, steps: int) -> Iterator[Display]:
    """A display for a run of `steps` steps, fitting the console."""
    if not console.is_terminal:
        yield _Lines(console, title, steps)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]} samples/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress, title, steps)


class _Bar:
    def __init__(self, progress: Progress, title: str, steps: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=steps, loss="-", speed="-")

    def __call__(self, point: LogPoint) -> None:
        self._progress.update(
            self._task, completed=point.step, loss=f"{point.loss:.4f}", speed=f"{point.samples_per_second:.0f}"
        )


class _Lines:
    def __init__(self, console: Console, title: str, steps: int) -> None:
        self._console, self._title, self._steps = console, title, steps
        self._last = time.monotonic()

    def __call__(self, point: LogPoint) -> None:
        if time.monotonic() - self._last < LINE_SECONDS and point.step != self._steps:
            return
        self._last = time.monotonic()
        left = point.seconds / point.step * (self._steps - point.step)
        self._console.print(
            f"{self._title}: step {point.step}/{self._steps}, loss {point.loss:.4f}, "
            f"{point.samples_per_second:.0f} samples/s, {left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )
