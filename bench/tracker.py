"""Optional experiment trackers that follow a run beside its record."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.errors import one_line
from bench.records.schema import plain
from bench.training.loop import LogPoint

if TYPE_CHECKING:
    from bench.records.record import RunRecord
    from bench.settings import TrackerSettings


class Tracker(Protocol):
    """Receives the training curve and the finished record."""

    def log(self, point: LogPoint) -> None:
        """One point of the training curve."""

    def finish(self, record: RunRecord) -> None:
        """The record's numbers, at the end."""


class NoTracker:
    """Tracks nothing."""

    def log(self, point: LogPoint) -> None:
        """Ignore the point."""

    def finish(self, record: RunRecord) -> None:
        """Ignore the record."""


class WandbTracker:
    """Logs to Weights & Biases, until that fails once: the run goes on without it."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._run: Any = None
        with self._tracking():
            self._run = begin()

    def log(self, point: LogPoint) -> None:
        """Log the training curve by optimizer step."""
        values = {
            "train/loss": point.loss,
            "train/learning_rate": point.learning_rate,
            "train/samples_per_second": point.samples_per_second,
        }
        with self._tracking():
            if self._run is not None:
                self._run.log(values, step=point.step)

    def finish(self, record: RunRecord) -> None:
        """Put the record's numbers into the run's summary."""
        with self._tracking():
            if self._run is not None:
                numbers = {name: value for name, value in plain(record).items() if isinstance(value, (int, float))}
                self._run.summary.update(numbers | {f"metrics/{name}": value for name, value in record.metrics.items()})
                self._run.summary["status"] = record.status

    def close(self, exit_code: int = 0) -> None:
        """Hand over what is still on its way; an exit code that is not 0 marks a run that failed or was stopped."""
        with self._tracking():
            if self._run is not None:
                self._run.finish(exit_code=exit_code)

    @contextlib.contextmanager
    def _tracking(self) -> Iterator[None]:
        """A failure ends the tracking, not the run."""
        try:
            yield
        except Exception as error:  # from the network to a disk that is full
            self._run = None
            print(f"the tracker wandb failed, the run goes on without it: {one_line(error)}", file=sys.stderr)


@contextlib.contextmanager
def tracker(
    settings: TrackerSettings, name: str, run_id: str, config: dict[str, Any], folder: Path
) -> Iterator[Tracker]:
    """The tracker that the settings name; wandb goes offline where there is no key, and its files lie in `folder`."""
    if settings.name == "none":
        yield NoTracker()
        return
    import wandb

    offline = not (os.environ.get("WANDB_API_KEY") or _has_stored_key())
    mode = os.environ.get("WANDB_MODE") or ("offline" if offline else "online")
    folder.mkdir(parents=True, exist_ok=True)

    def begin() -> Any:
        return wandb.init(
            project=settings.project,
            name=name,
            config=config | {"run_id": run_id},
            dir=folder,
            mode=mode,  # type: ignore[arg-type]
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        )

    follower = WandbTracker(begin)
    try:
        yield follower
    except BaseException:
        follower.close(exit_code=1)
        raise
    follower.close()


def _has_stored_key() -> bool:
    netrc = Path.home() / ".netrc"
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text()
