"""How runs end whose processes or neighbours fail; small scripts and functions stand in for what trains."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench import settings
from bench.context import Terms
from bench.errors import SettingsError
from bench.planning import Plan
from bench.processes import launch
from bench.processes.signals import StopRequest
from bench.processes.team import ALONE
from bench.records.record import RunRecord
from bench.records.schema import RecordError, plain
from bench.records.store import RECORD_FILE
from bench.records.workspace import Held
from bench.settings import HardwareSettings, SlurmSettings
from bench.sweeps import in_process, sweep
from tests.test_record import record

PLACE = "import os, sys; rank, folder = os.environ['RANK'], sys.argv[1].rpartition('/')[0]\n"


@pytest.fixture
def plans(tiny_bert: Path, tmp_path: Path) -> list[Plan]:
    """Three runs of two processes each."""
    settings.register()
    asked = [f"model.path={tiny_bert}", "data=sample", f"results.dir={tmp_path / 'results'}"]
    return sweep.planned([*asked, "hardware.processes=2", "seed=0,1,2"]).plans


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    return Terms(tmp_path, Console(file=io.StringIO(), soft_wrap=True), StopRequest(), ALONE, None)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a script stand in for the processes."""

    def use(text: str) -> None:
        (tmp_path / "worker.py").write_text(PLACE + text)
        monkeypatch.setattr(launch, "WORKER", tmp_path / "worker.py")

    return use


def test_a_process_that_fails_after_the_run_was_complete_takes_nothing_from_it(
    plans: list[Plan], terms: Terms, worker: Callable[[str], None]
) -> None:
    written = terms.folder / RECORD_FILE
    worker(f"if rank == '1': sys.exit(1)\nopen({str(written)!r}, 'w').write({json.dumps(plain(record()))!r})")
    found = launch.launched(plans[0], terms)
    assert (found.status, found.score) == ("complete", 80.5)
    assert isinstance(terms.console.file, io.StringIO)
    assert terms.console.file.getvalue() == (
        "the run was complete before a process failed: process 1 ended with exit code 1\n"
    )


def test_the_record_of_an_earlier_attempt_is_not_taken_for_this_ones(
    plans: list[Plan], terms: Terms, worker: Callable[[str], None]
) -> None:
    (terms.folder / RECORD_FILE).write_text(json.dumps(plain(record())))
    worker("sys.exit(1)")
    found = launch.launched(plans[0], terms)
    assert (found.status, found.score, found.metrics) == ("failed", None, {})
    assert found.run_id == plans[0].run_id


def test_the_processes_of_one_machine_ask_nothing_of_the_users_own_slurm_step(
    plans: list[Plan], terms: Terms, worker: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"JOB_ID": "7", "NODEID": "1", "NNODES": "2", "JOB_NODELIST": "node[1-2]"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    place = "' '.join(os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR'))"
    worker(f"open({str(terms.folder)!r} + '/place-' + rank, 'w').write({place}); sys.exit(rank == '0')")
    launch.launched(plans[0], terms)
    places = [file.read_text() for file in sorted(terms.folder.glob("place-*"))]
    assert places == ["0 2 127.0.0.1", "1 2 127.0.0.1"]


def test_processes_may_take_half_of_slurms_warning_to_stop() -> None:
    slurm = SlurmSettings(submit=True, signal_delay_seconds=30)
    assert launch._stop_seconds(HardwareSettings("slurm/x", slurm=slurm)) == 15
    assert launch._stop_seconds(HardwareSettings("slurm/x", slurm=SlurmSettings(submit=True))) == 60
    assert launch._stop_seconds(HardwareSettings("cpu")) == 60


def test_a_record_that_does_not_follow_the_schema_fails_its_run_alone(
    plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(plan: Plan, console: Console, wait: bool) -> RunRecord:
        raise RecordError("score is nan")

    monkeypatch.setattr("bench.experiment.execute", execute)
    assert in_process.carry_out(plans[0], Console(quiet=True), wait=False) == 1


def test_a_refusal_of_a_run_that_was_waited_for_leaves_the_other_runs_alone(
    plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run is done at once; the other two are waited for, and the first of them is refused."""
    ended = []

    def execute(plan: Plan, console: Console, wait: bool) -> RunRecord:
        if plan is not plans[0] and not wait:
            raise Held("another process is at work on this run")
        ended.append(plan)
        if plan is plans[1]:
            raise SettingsError("too few examples")
        return record()

    monkeypatch.setattr("bench.experiment.execute", execute)
    monkeypatch.setattr(in_process, "report", lambda *_: None)
    assert in_process.carry_out_all(plans, Console(quiet=True)) == 2
    assert ended == plans
