"""Optional experiment trackers that follow a run beside its record."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.errors import SettingsError
from bench.schema import plain
from bench.training import LogPoint

if TYPE_CHECKING:
    from bench.record import RunRecord
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
    """Logs to Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, point: LogPoint) -> None:
        """Log the training curve by optimizer step."""
        values = {
            "train/loss": point.loss,
            "train/learning_rate": point.learning_rate,
            "train/samples_per_second": point.samples_per_second,
        }
        self._run.log(values, step=point.step)

    def finish(self, record: RunRecord) -> None:
        """Put the record's numbers into the run's summary."""
        numbers = {name: value for name, value in plain(record).items() if isinstance(value, (int, float))}
        self._run.summary.update(numbers | {f"metrics/{name}": value for name, value in record.metrics.items()})
        self._run.summary["status"] = record.status


@contextlib.contextmanager
def tracker(
    settings: TrackerSettings, name: str, run_id: str, config: dict[str, Any], folder: Path
) -> Iterator[Tracker]:
    """The tracker that the settings name; wandb goes offline where there is no key, and its files lie in `folder`."""
    if settings.name == "none":
        yield NoTracker()
        return
    try:
        import wandb
    except ImportError as error:
        raise SettingsError("tracker=wandb needs the package wandb: pip install wandb.") from error
    offline = not (os.environ.get("WANDB_API_KEY") or _has_stored_key())
    mode = os.environ.get("WANDB_MODE") or ("offline" if offline else "online")
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=settings.project,
        name=name,
        config=config | {"run_id": run_id},
        dir=folder,
        mode=mode,  # type: ignore[arg-type]
        reinit="finish_previous",
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        yield WandbTracker(run)
    finally:
        run.finish()


def _has_stored_key() -> bool:
    netrc = Path.home() / ".netrc"
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text()
