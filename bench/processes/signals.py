"""Requests to stop: Ctrl-C, SIGTERM, and the signals by which clusters announce preemption and time limits.

A request waits until the run looks: between its phases, and after every optimizer step, when it can write a checkpoint.
An exception at any other moment could leave a library half imported or a file half written. Only long phases that
change nothing, such as an evaluation, are left at once; and a second Ctrl-C never waits.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(BaseException):
    """A run was asked to stop and has stopped; what it had done by then lies in its checkpoint, if it had begun."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._at_once = False

    def check(self) -> None:
        """Raise Stopped if a request is waiting."""
        if self.number is not None:
            raise Stopped(self.number)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Requests do not wait for `check` while the block runs."""
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Handle a signal."""
        again = self.number == number == signal.SIGINT
        self.number = number
        if again or self._at_once:
            raise Stopped(number)


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Take stop signals while the block runs; afterwards their earlier handlers are back.

    In a thread that cannot take signals the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.signal(number, request.receive) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
