"""Sweeps that are struck again and again until they are complete nevertheless."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.records import status
from bench.records.workspace import LEASE_SECONDS
from scripts.soak import damage
from scripts.soak.comparison import CutRecord, faults, planned
from scripts.soak.submissions import AIMS, Submission, appeared

SIGNALS = (
    *[(signal.SIGKILL,)] * 4,
    *[(signal.SIGTERM,)] * 2,
    (signal.SIGTERM, signal.SIGKILL),
    (signal.SIGINT,),
    (signal.SIGUSR1,),
    (signal.SIGUSR2,),
)
"""What strikes, as often as here; a second signal follows the first closely, as from an impatient scheduler."""
MOMENTS = (None, None, None, *AIMS)
"""At any time, or when something aimed at appears."""
ANY_TIME = "any time"
TRIES = 2
"""Sweeps in which an aim is waited for; then the strike comes at any time."""
GAP_SECONDS = 0.3
AIM_LAG_SECONDS = 0.03
POLL_SECONDS = 0.003
HEED_SECONDS = 60.0
"""How long a process may take to stop when it is asked to."""
FULL_SECONDS = (3.0, 10.0)
AWAY_SECONDS = (1.0, 4.0)
TAKEN_OVER_SECONDS = (5.0, 40.0)
MOST_STARTS_IN_VAIN = 5


Item = TypeVar("Item")


class Stuck(Exception):
    """A sweep that does not come to its end."""


@dataclass(frozen=True)
class Strike:
    """Signals to a submission: when the aim appears, or at any time of its life."""

    signals: tuple[signal.Signals, ...]
    aim: str | None
    twins: bool
    """Whether the sweep is submitted twice at the time."""


@dataclass(frozen=True)
class Damage:
    """A node dies: all its processes, and the end of a file with them."""

    file: str
    """A finished `record`, or the `checkpoint`, `history` or `claim` of a run that was under way."""


@dataclass(frozen=True)
class FullDisk:
    """The disk of the results has no room for a while."""


@dataclass(frozen=True)
class FolderOutOfReach:
    """The results folder cannot be written, or is not there, for a while."""


@dataclass(frozen=True)
class StandStill:
    """A process stands still until another has taken its run over, and goes on then."""


Disturbance = Strike | Damage | FullDisk | FolderOutOfReach | StandStill


def schedule(kills: int, draw: random.Random) -> Iterator[Disturbance]:
    """So many strikes, with other trouble in between."""
    kinds, moments = _shuffled_for_ever(SIGNALS, draw), _shuffled_for_ever(MOMENTS, draw)
    damages = itertools.cycle(("checkpoint", "record", "history", "claim"))
    for number, signals, aim in zip(range(1, kills + 1), kinds, moments, strict=False):
        yield Strike(signals, aim, twins=number % 5 == 3)
        if number % 3 == 0:
            yield Damage(next(damages))
        if number % 12 == 8:
            yield FullDisk()
        if number % 12 == 11:
            yield FolderOutOfReach()
        if number % 24 == 14:
            yield StandStill()


def _shuffled_for_ever(items: Sequence[Item], draw: random.Random) -> Iterator[Item]:
    while True:
        yield from draw.sample(items, len(items))


@dataclass
class Tally:
    """What happened."""

    rounds: int = 0
    runs: int = 0
    starts: int = 0
    attempts: int = 0
    resumed: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[int | None] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Storm:
    """Rounds of the same sweep, each in a folder of its own and compared with the calm results at its end."""

    def __init__(
        self, folder: Path, overrides: Sequence[str], calm_seconds: float, draw: random.Random, deadline: float
    ) -> None:
        self.tally = Tally()
        self._folder = folder
        self._overrides = overrides
        self._calm_seconds = calm_seconds
        self._draw = draw
        self._deadline = deadline
        self._alive: list[Submission] = []
        self._begin_round()

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *_: object) -> None:
        for submission in self._alive:
            submission.kill()

    def pass_over(self, kills: int) -> None:
        """Everything that the schedule holds, and the end of the last round. Raises Stuck."""
        carry_out: dict[type, Callable[..., None]] = {
            Strike: self._strike,
            Damage: self._damage,
            FullDisk: self._fill_disk,
            FolderOutOfReach: self._withhold_folder,
            StandStill: self._freeze,
        }
        for disturbance in schedule(kills, self._draw):
            carry_out[type(disturbance)](disturbance)
        self._end_round()

    # Rounds

    def _begin_round(self) -> None:
        self.tally.rounds += 1
        self._round = self._folder / f"storm-{self.tally.rounds}"
        (self._round / "results").mkdir(parents=True)
        self._cut: list[CutRecord] = []
        self._complete = False
        self._in_vain = 0

    def _end_round(self) -> None:
        """Start the sweep until it is complete, and compare."""
        while not self._complete:
            self._keep_running(1)
            self._wait(lambda: not self._alive)
        self._wait(lambda: not self._alive)
        results = self._round / "results"
        self.tally.runs += len(planned(results))
        found = faults(self._folder / "calm" / "results", results, self._cut)
        self.tally.faults += [f"{self._round.name}: {fault}" for fault in found]

    # Submissions

    def _start(self, folder: Path) -> Submission:
        self.tally.starts += 1
        log = self._folder / "log" / f"{self._round.name}-start-{self.tally.starts}.txt"
        self._alive.append(Submission(folder, self._overrides, log))
        return self._alive[-1]

    def _keep_running(self, count: int) -> None:
        while len(self._alive) < count:
            self._start(self._round)

    def _reap(self) -> None:
        """Take note of submissions that have ended by themselves. Raises Stuck where that happens too often."""
        for submission in [one for one in self._alive if one.code is not None]:
            self._note_end(submission)
            if submission.code == 0:
                self._complete = True
                continue
            self._in_vain += not submission.disturbed
            self._remark_end(submission, "ended by itself")
        if self._in_vain > MOST_STARTS_IN_VAIN:
            raise Stuck(f"{self._in_vain} starts failed by themselves; {self._unfinished()}")

    def _remark_end(self, submission: Submission, how: str) -> None:
        said = f"{submission.log.name}: {how} with exit code {submission.code}: {submission.last_words}"
        self.tally.remarks.append(said)

    def _note_end(self, submission: Submission) -> None:
        self._alive.remove(submission)
        self.tally.exit_codes[submission.code] += 1
        attempts, resumed = submission.attempts
        self.tally.attempts += attempts
        self.tally.resumed += resumed

    def _wait(self, until: Callable[[], bool], seconds: float | None = None) -> bool:
        """Whether the condition came about in time; ended submissions are noted meanwhile. Raises Stuck."""
        started, longest = time.monotonic(), max(300.0, 10 * self._calm_seconds)
        while not until():
            now = time.monotonic()
            if seconds is not None and now - started > seconds:
                return False
            if now > self._deadline or now - started > longest:
                raise Stuck(f"the time is over; {self._unfinished()}")
            time.sleep(POLL_SECONDS)
            self._reap()
        return True

    def _unfinished(self) -> str:
        results = self._round / "results"
        states = status.of_runs(results, [results / run for run in planned(results)])
        waiting = [f"{state.name}: {state.status} {state.detail}" for state in states if state.status != status.DONE]
        return f"{len(waiting)} of {len(states)} runs in {results} are not complete: {'; '.join(waiting)}"

    # Disturbances

    def _strike(self, strike: Strike) -> None:
        """Send the signals; a sweep that is complete before they come makes way for the next round."""
        aims = itertools.chain([strike.aim] * TRIES, itertools.repeat(None))
        for aim in aims:
            self._keep_running(2 if strike.twins else 1)
            if self._moment_comes(aim):
                break
            self._next_round_if_complete()
        self.tally.moments[aim or ANY_TIME] += 1
        self._hit(self._draw.choice(self._alive), strike.signals)

    def _moment_comes(self, aim: str | None) -> bool:
        """Wait for the moment; False if the submissions end before it comes."""
        if aim is None:
            self._wait(lambda: not self._alive, self._draw.uniform(0, self._calm_seconds))
            return bool(self._alive)
        runs, names = self._round / "results/runs", AIMS[aim]
        before = appeared(runs, names)
        self._wait(lambda: not self._alive or bool(appeared(runs, names) - before))
        time.sleep(self._draw.uniform(0, AIM_LAG_SECONDS))
        self._reap()
        return bool(self._alive)

    def _hit(self, submission: Submission, signals: Sequence[signal.Signals]) -> None:
        """Send the signals and wait for the end. One that does not heed them is a fault."""
        kind = " then ".join(number.name for number in signals)
        submission.send(signal.SIGSTOP)  # so that the phase that is noted is the one that is struck
        phase = submission.phase
        submission.send(signals[0])
        submission.send(signal.SIGCONT)
        for number in signals[1:]:
            time.sleep(self._draw.uniform(0, GAP_SECONDS))
            submission.send(number)
        self.tally.kills[kind] += 1
        self.tally.phases[phase] += 1
        print(f"{self._round.name}: {kind} {phase}", flush=True)
        if not submission.ends_within(HEED_SECONDS):
            self.tally.faults.append(f"{submission.log.name}: went on for {HEED_SECONDS:g} s after {kind}")
            submission.kill()
        self._complete = self._complete or submission.code == 0
        if submission.code not in (0, *(-number for number in signals), *(128 + number for number in signals)):
            self._remark_end(submission, f"ended after {kind}")
        self._note_end(submission)

    def _stop_all(self) -> None:
        for submission in list(self._alive):
            self._hit(submission, (signal.SIGKILL,))

    def _damage(self, disturbance: Damage) -> None:
        """Cut a file off between two starts; some files have to be waited for."""
        for _ in range(MOST_STARTS_IN_VAIN):
            if self._cut_off(disturbance.file):
                self._complete = False
                self._note_damage(f"{disturbance.file} cut off")
                return

    def _cut_off(self, file: str) -> bool:
        """Whether there was such a file."""
        while not self._at_work(self._round):
            self._next_round_if_complete()
        self._stop_all()
        results = self._round / "results"
        if file != "record":
            return damage.cut_unfinished(results, file, self._draw)
        cut = damage.cut_record(results, self._draw)
        self._cut += [cut] if cut else []
        return cut is not None

    def _note_damage(self, what: str) -> None:
        self.tally.damages[what] += 1
        print(f"{self._round.name}: {what}", flush=True)

    def _fill_disk(self, _: FullDisk) -> None:
        """A sweep finds the disk full, and so does the next start; then there is room again."""
        self._stop_all()
        try:
            with damage.on_small_disk(self._round) as disk:
                if self._at_work(disk):
                    with damage.filled(disk):
                        self._note_damage("disk full")
                        self._endure(disk)
                self._wait(lambda: not self._alive, self._calm_seconds / 4)
                for submission in list(self._alive):
                    self._hit(submission, (signal.SIGTERM,))
        except OSError as error:
            self.tally.remarks.append(f"no full disk, which needs leave to mount one: {error}")

    def _endure(self, disk: Path) -> None:
        """Let the sweep meet the full disk, and start it once more if it ends."""
        (submission,) = self._alive
        submission.disturbed = True
        if submission.ends_within(self._draw.uniform(*FULL_SECONDS)):
            again = self._start(disk)
            again.disturbed = True
            again.ends_within(HEED_SECONDS)

    def _withhold_folder(self, _: FolderOutOfReach) -> None:
        """The results folder is renamed or made read-only under a sweep, and then as before."""
        withheld: Callable[[Path], AbstractContextManager[None]] = damage.away
        if os.geteuid() != 0:
            withheld = self._draw.choice((damage.away, damage.read_only))
        while not self._at_work(self._round):
            self._next_round_if_complete()
        for submission in self._alive:
            submission.disturbed = True
        with withheld(self._round / "results"):
            self._note_damage("folder renamed" if withheld is damage.away else "folder read-only")
            time.sleep(self._draw.uniform(*AWAY_SECONDS))

    def _freeze(self, _: StandStill) -> None:
        while not self._at_work(self._round):
            self._next_round_if_complete()
        frozen = self._draw.choice(self._alive)
        frozen.disturbed = True
        frozen.send(signal.SIGSTOP)
        self._note_damage("stand-still")
        self._start(self._round)
        self._wait(lambda: self._alive == [frozen], LEASE_SECONDS + self._draw.uniform(*TAKEN_OVER_SECONDS))
        frozen.send(signal.SIGCONT)

    def _at_work(self, folder: Path) -> bool:
        """Whether a submission was seen at work on a run; one is started where none is."""
        if not self._alive:
            self._start(folder)
        self._wait(lambda: not self._alive or any(one.phase != "before training" for one in self._alive))
        self._wait(lambda: not self._alive, self._draw.uniform(0, self._calm_seconds / 8))
        return bool(self._alive)

    def _next_round_if_complete(self) -> None:
        if self._complete:
            self._end_round()
            self._begin_round()
