"""Training that survives an interruption: checkpoints between the steps, and the way back from one."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.bookkeeping import closed, note_failure, traceback_file
from bench.files import replacing
from bench.hardware import description
from bench.measure import derived
from bench.measure.phases import MEASURE
from bench.measure.throughput import StepClock
from bench.processes.signals import Stopped
from bench.processes.team import different
from bench.records import provenance
from bench.records.checkpoint import Checkpoints
from bench.records.pulse import Pulse, watched
from bench.records.store import HISTORY_FILE
from bench.training.progress import display

if TYPE_CHECKING:
    from bench.context import Run
    from bench.planning import Plan
    from bench.training.loop import LogPoint, TrainingLoop

LONG_TRAINING_SECONDS = 60.0
"""Training that took so long leaves a checkpoint at its end, so that an interrupted evaluation costs no training."""
NOTHING, SAVE, STOP = range(3)
"""What a process wants after a step; the greatest wish of all processes is what they do."""


class ResumableTraining:
    """The training of one run, from where an interrupted process had come."""

    def __init__(self, run: Run, loop: TrainingLoop) -> None:
        self._run = run
        self._loop = loop
        self._team = run.terms.team
        self._clock = StepClock(run.plan.hardware.device)
        self._curve = _Curve(run)
        self._pulse = Pulse(run.terms.folder, loop.steps, self._team.is_first)

    def run(self, earlier: dict[str, Any] | None) -> None:
        """Train; the speed is noted also when training fails. `earlier` is what a checkpoint held."""
        run, record, loop = self._run, self._run.record, self._loop
        if earlier is not None:
            self._take_up(earlier)
        title = f"{run.plan.names.method} on {run.plan.names.task}"
        limit = _seconds(run.plan.settings.hardware.step_timeout_minutes)
        try:
            with (
                display(run.terms.console, title, loop.steps) as show,
                self._curve.written(show),
                watched(self._pulse, limit, self._last_words),
            ):
                record.final_train_loss = loop.run(self._clock, self._curve.add, on_step=self._between_steps)
            self._check_processes_agree()
            was_long = self._clock.seconds >= LONG_TRAINING_SECONDS and run.checkpoints.wanted
            if self._team.greatest(int(was_long)):  # each process has a clock of its own
                with run.phases.aside("checkpoint"):
                    self._save()
        finally:
            loop.release()
            if loop.step == loop.steps:
                self._clock.count_passes_of(self._team.gathered(self._clock.passes))
            derived.note_steps(record, self._clock, run.phases.started_at, run.phases.seconds[MEASURE])
            derived.note_curve(record, self._curve.losses, self._curve.seconds)
            run.meters.after_training(loop, self._clock)

    def _between_steps(self) -> None:
        """Show that the run lives; save and stop where that is due, in all processes after the same step."""
        stop, checkpoints = self._run.terms.stop, self._run.checkpoints
        self._run.terms.check_claim()
        self._pulse.beat(self._loop.step)
        due = self._team.is_first and checkpoints.due(self._loop.step)
        wish = STOP if stop.number is not None else SAVE if due else NOTHING
        decided = self._team.greatest(wish)
        if decided == NOTHING:
            return
        with self._run.phases.aside("checkpoint"):
            self._save()
        self._clock.resume()
        self._pulse.beat(self._loop.step)
        if decided == STOP:
            stop.check()
            raise Stopped(signal.SIGTERM)

    def _save(self) -> None:
        """Write the training state, and each process's own: its part of it, and what it measured so far."""
        run, loop = self._run, self._loop
        own = {
            "loop": loop.own_state_dict(),
            "clock": self._clock.state_dict(),
            "phases": run.phases.state_dict(),
            "meters": run.meters.state_dict(),
        }
        of_processes, state = self._team.gathered(own), loop.state_dict()
        if not self._team.is_first:
            return
        run.checkpoints.save(
            {
                "loop": state,
                "of_processes": of_processes,
                "curve": [asdict(point) for point in self._curve.points],
                "first_step_seconds": self._first_step_seconds(),
                "interruptions": run.record.interruptions,
                "saved_at": provenance.now(),
            }
        )
        if run.checkpoints.failure is not None:
            run.terms.console.print(run.checkpoints.failure)

    def _take_up(self, earlier: dict[str, Any]) -> None:
        """Go on from a checkpoint, with the times and the memory of the work until then."""
        run, own = self._run, earlier["of_processes"][self._team.rank]
        self._loop.load_state_dict(earlier["loop"] | own["loop"])
        self._clock.load_state_dict(own["clock"])
        self._curve.load(earlier["curve"])
        run.phases.load_state_dict(own["phases"])
        run.record.first_step_seconds = earlier["first_step_seconds"]
        run.meters.load_state_dict(own["meters"])
        step = self._loop.step
        here = {"step": step, "saved_at": earlier["saved_at"], "resumed_at": provenance.now()}
        run.record.interruptions = [*earlier["interruptions"], here | {"hostname": provenance.hostname()}]
        if self._team.is_first:
            run.terms.console.print(f"goes on from step {step} of {self._loop.steps}")

    def _first_step_seconds(self) -> float | None:
        derived.note_steps(
            self._run.record, self._clock, self._run.phases.started_at, self._run.phases.seconds[MEASURE]
        )
        return self._run.record.first_step_seconds

    def _check_processes_agree(self) -> None:
        """Raise RuntimeError if a tensor that trained is not the same in all processes."""
        if self._team.size == 1:
            return
        found = different(self._team.gathered(self._loop.fingerprint()))
        if found:
            raise RuntimeError(f"the processes hold different weights after training, first in {found[0]}")

    def _last_words(self, error: Exception) -> None:
        """Leave the record of a run whose main thread never comes back."""
        note_failure(self._run.record, error, traceback_file(self._run.terms.folder, self._team))
        if self._team.is_first:
            closed(self._run.record, self._run.terms.folder)


class _Curve:
    """The training curve, on its way to file, tracker and screen."""

    def __init__(self, run: Run) -> None:
        self.points: list[LogPoint] = []
        self._run = run
        self._file: Any = None
        self._show: Callable[[LogPoint], None]

    @property
    def losses(self) -> list[float]:
        """The loss of every point."""
        return [point.loss for point in self.points]

    @property
    def seconds(self) -> list[float]:
        """The time of every point."""
        return [point.seconds for point in self.points]

    def load(self, points: list[dict[str, Any]]) -> None:
        """Go on after these points."""
        from bench.training.loop import LogPoint

        self.points = [LogPoint(**point) for point in points]

    @contextlib.contextmanager
    def written(self, show: Callable[[LogPoint], None]) -> Iterator[None]:
        """Points go to the file and to `show` while the block runs."""
        self._show = show
        path = self._run.terms.folder / HISTORY_FILE
        if not self._run.terms.team.is_first:
            yield
            return
        with replacing(path) as temporary:
            temporary.write_text("".join(map(_line, self.points)), "utf-8")
        with path.open("a", 1, "utf-8") as self._file:
            yield

    def add(self, point: LogPoint) -> None:
        """Take the next point."""
        self.points.append(point)
        if self._run.terms.team.is_first:
            self._file.write(_line(point))
            self._run.follower.log(point)
            self._show(point)


def _line(point: LogPoint) -> str:
    return json.dumps(asdict(point)) + "\n"


def earlier_work(run: Run) -> dict[str, Any] | None:
    """What an interrupted process had done of this run, if it can be taken up."""
    state, reason = run.checkpoints.load()
    if state is not None and (processes := len(state["of_processes"])) != run.terms.team.size:
        state, reason = None, f"it was trained by {processes} processes then"
    if run.terms.team.is_first and reason is not None:
        run.terms.console.print(f"the interrupted run starts anew: {reason}")
    return state


def checkpoints_of(plan: Plan, folder: Path) -> Checkpoints:
    """Where and when a run writes checkpoints."""
    training = plan.settings.training
    commit, _ = provenance.git_state()
    origin = {"device": description(plan.hardware.device), "parsimony": commit or "unknown"}
    return Checkpoints(
        folder, training.checkpoint_steps, _seconds(training.checkpoint_minutes), origin | provenance.versions()
    )


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60 * minutes
