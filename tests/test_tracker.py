"""A tracker that fails ends with a line on the console; the run goes on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from bench.errors import Diverged
from bench.settings import TrackerSettings
from bench.tracker import WandbTracker, tracker
from bench.training.loop import LogPoint
from tests.test_record import record

POINT = LogPoint(step=1, loss=0.5, learning_rate=1e-3, samples_per_second=10.0, seconds=1.0)
SETTINGS = TrackerSettings(name="wandb")
FAILED = "the tracker wandb failed, the run goes on without it: "


def test_a_tracker_that_cannot_begin_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "no-such-mode")
    with tracker(SETTINGS, "name", "id", {}, tmp_path) as follower:
        follower.log(POINT)
        follower.finish(record())
    said = capsys.readouterr().err
    assert said.startswith(FAILED)
    assert said.count(FAILED) == 1


@pytest.mark.parametrize("error", [None, Diverged("the loss is nan")])
def test_a_run_that_fails_ends_as_failed_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Diverged | None
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    codes = []
    with suppress(Diverged), tracker(SETTINGS, "name", "id", {}, tmp_path) as follower:
        assert isinstance(follower, WandbTracker)
        finish = follower._run.finish
        monkeypatch.setattr(follower._run, "finish", lambda exit_code: codes.append(exit_code) or finish(exit_code))
        if error is not None:
            raise error
    assert codes == [0 if error is None else 1]


def test_a_tracker_that_breaks_off_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracker(SETTINGS, "name", "id", {}, tmp_path) as follower:
        assert isinstance(follower, WandbTracker)
        follower.log(POINT)
        follower._run.finish()
        follower.log(POINT)
        follower.finish(record())
    assert capsys.readouterr().err.count(FAILED) == 1
