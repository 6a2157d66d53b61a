"""Signs of life of a training run: for those who watch the sweep, and for a watchdog that ends a run that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.records import provenance

PROGRESS_FILE = "progress.json"
WRITE_SECONDS = 5.0
GRACE_SECONDS = 20.0
"""How long the main thread has to notice that it hangs; one that is lost in a system call or a driver never does."""


class Hung(Exception):
    """No optimizer step ended for longer than the run allows."""


class Pulse:
    """Beats once per optimizer step."""

    def __init__(self, folder: Path, steps: int, writes: bool) -> None:
        self._file = folder / PROGRESS_FILE
        self._steps = steps
        self._writes = writes
        self._written_at = -WRITE_SECONDS
        self.last = time.monotonic()

    def beat(self, step: int) -> None:
        """Note that `step` optimizer steps are done; on disk every few seconds, and never an error."""
        self.last = time.monotonic()
        if not self._writes or self.last - self._written_at < WRITE_SECONDS:
            return
        self._written_at = self.last
        state = {"step": step, "steps": self._steps, "process": os.getpid(), "host": provenance.hostname()}
        with contextlib.suppress(OSError):
            temporary = self._file.with_suffix(".partial")
            temporary.write_text(json.dumps(state | {"at": provenance.now()}))
            temporary.replace(self._file)


@contextlib.contextmanager
def watched(pulse: Pulse, limit_seconds: float | None, last_words: Callable[[Hung], None]) -> Iterator[None]:
    """Raise Hung in the block if the pulse stops for `limit_seconds`.

    A block that does not even notice that has `GRACE_SECONDS`; then `last_words` is called in the watchdog's thread
    and the process ends with exit code 1.
    """
    if limit_seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()

    def raise_hung(_number: int, _frame: object) -> None:
        if not over.is_set():
            raise Hung(f"no optimizer step ended for {limit_seconds:g} s")

    def watch() -> None:
        while not over.wait(min(1.0, limit_seconds / 4)):
            if time.monotonic() - pulse.last > limit_seconds:
                break
        else:
            return
        where = _stack_of(threading.main_thread())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        if not over.wait(GRACE_SECONDS):
            last_words(Hung(f"no optimizer step ended for {limit_seconds:g} s; the process was at:\n{where}"))
            os._exit(1)

    earlier = signal.signal(signal.SIGALRM, raise_hung)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGALRM, earlier)


def _stack_of(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame))
