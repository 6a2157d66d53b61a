"""Work on many items side by side, on all cores."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from bench.hardware import usable_cores

MOST = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What the function returns for each item; in further processes, which need a second to start, or else in this one.

    Functions and items must be picklable. What the function raises is raised here.
    """
    given = list(items)
    with contextlib.suppress(BrokenProcessPool):  # as where the main module cannot be imported
        pool = ProcessPoolExecutor(min(usable_cores(), MOST), multiprocessing.get_context("spawn"))
        with pool:
            return list(pool.map(function, given))
    return list(map(function, given))
