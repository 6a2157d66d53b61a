"""Runs as jobs of a real SLURM: how they end, what the submitter learns, and how they go on after an interruption."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.cluster import node, submission, watching
from bench.cluster.job import RunJob
from bench.cluster.watching import Outcome
from bench.errors import SettingsError
from bench.settings import HardwareSettings, SlurmSettings
from tests.cluster_jobs import Count, Ignore, Note, Raise, Vanish
from tests.slurm_cluster import wait_until

SILENT = Console(quiet=True)


@pytest.fixture(autouse=True)
def _on_the_cluster(slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(watching, "POLL_SECONDS", (0.5, 1.0))
    monkeypatch.setattr(watching, "PATIENCE_SECONDS", {"COMPLETED": 10.0, "FAILED": 2.0, None: 300.0})


def hardware(machines: int = 1, **slurm: Any) -> HardwareSettings:
    settings = {"time_minutes": 30, "cpus_per_task": 1, "signal_delay_seconds": 30} | slurm
    return HardwareSettings(
        "slurm/test", "cpu", "fp32", machines=machines, slurm=SlurmSettings(submit=True, **settings)
    )


def carried_out(jobs: Sequence[Callable[[], None]], folder: Path, wanted: HardwareSettings) -> list[Outcome]:
    return watching.watch(submission.submit(jobs, wanted, folder / "slurm"), SILENT)


def command(*words: str) -> str:
    return subprocess.check_output(words, text=True)


def facts(job_id: str) -> dict[str, str]:
    fields = command("scontrol", "show", "job", "--oneliner", job_id).split()
    return dict(field.split("=", 1) for field in fields if "=" in field)


def accounted(job_id: str) -> str:
    return command("sacct", "-j", job_id, "--noheader", "-o", "JobID,State", "--parsable2").split("|")[1]


def restarts_by_step(file: Path) -> list[tuple[int, int]]:
    return [(int(step), int(restart)) for step, restart in map(str.split, file.read_text().splitlines())]


def test_every_job_of_an_array_ends_as_it_does_and_says_why(tmp_path: Path) -> None:
    jobs = [Note(str(tmp_path)), Raise("no such luck"), Vanish(9), Vanish(-9), Note(str(tmp_path))]
    outcomes = carried_out(jobs, tmp_path, hardware())
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert [outcome.state for outcome in outcomes] == ["COMPLETED", "FAILED", "FAILED", "FAILED", "COMPLETED"]
    assert [accounted(outcome.job_id) for outcome in outcomes] == [outcome.state for outcome in outcomes]
    done, raised, left, killed, also_done = (outcome.error for outcome in outcomes)
    assert done is also_done is None
    assert "Traceback" in raised
    assert "cluster_jobs.py" in raised
    assert raised.strip().endswith("ValueError: no such luck")
    assert "last words" in left
    assert "last words" in killed
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_no_more_jobs_run_together_than_the_array_is_wide(tmp_path: Path) -> None:
    carried_out([Note(str(tmp_path), seconds=1) for _ in range(5)], tmp_path, hardware(array_parallelism=2))
    places = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert len(places) == 5
    for place in places:
        assert sum(other["started_at"] <= place["started_at"] < other["ended_at"] for other in places) <= 2


def test_the_nodes_of_a_job_know_each_other(tmp_path: Path) -> None:
    (outcome,) = carried_out([Note(str(tmp_path))], tmp_path, hardware(machines=2))
    assert (outcome.state, outcome.error) == ("COMPLETED", None)
    first, second = (json.loads(file.read_text()) for file in sorted(tmp_path.glob("*.json")))
    assert [(place["rank"], place["nodes"]) for place in (first, second)] == [(0, 2), (1, 2)]
    assert first["address"] == second["address"] == "127.0.0.2"
    assert first["port"] == second["port"] == node.MASTER_PORTS[int(outcome.job_id)]


def test_a_node_that_fails_ends_the_others(tmp_path: Path) -> None:
    started = time.monotonic()
    (outcome,) = carried_out([Count(str(tmp_path / "steps"), 6000, failing_node=1)], tmp_path, hardware(machines=2))
    assert time.monotonic() - started < 60
    assert outcome.state == "FAILED"
    assert outcome.error.strip().endswith("ValueError: one node fails")
    assert facts(outcome.job_id)["Restarts"] == "0"


@pytest.mark.parametrize("accounting", [True, False])
def test_a_cancelled_job_ends_and_does_not_come_back(
    accounting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not accounting:
        monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])
        assert subprocess.run(["sacct"], capture_output=True).returncode != 0
    (job,) = submission.submit([Count(str(tmp_path / "steps"), 6000)], hardware(), tmp_path / "slurm")
    assert wait_until((tmp_path / "steps").exists, 30)
    command("scancel", job.job_id)
    (outcome,) = watching.watch([job], SILENT)
    assert outcome.state == "CANCELLED"
    assert "CANCELLED" in outcome.error
    assert facts(job.job_id)["Restarts"] == "0"


@pytest.mark.parametrize("asking", [["scancel", "--signal=USR1"], ["scontrol", "requeue"]], ids=" ".join)
def test_a_job_that_is_asked_to_stop_goes_on_where_it_was(asking: list[str], tmp_path: Path) -> None:
    file = tmp_path / "steps"
    (job,) = submission.submit([Count(str(file), 30)], hardware(), tmp_path / "slurm")
    assert wait_until(file.exists, 30)
    command(*asking, job.job_id)
    (outcome,) = watching.watch([job], SILENT)
    assert (outcome.state, outcome.error) == ("COMPLETED", None)
    done = restarts_by_step(file)
    assert [step for step, _ in done] == list(range(30))
    assert (done[0][1], done[-1][1]) == (0, 1)


def test_a_preempted_job_on_two_nodes_makes_room_and_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    low = submission.submit(
        [Count(str(file), 40)], hardware(machines=2, cpus_per_task=4, partition="low"), tmp_path / "low"
    )
    assert wait_until(file.exists, 30)
    (urgent,) = carried_out([Note(str(tmp_path))], tmp_path, hardware(partition="debug"))
    assert urgent.state == "COMPLETED"
    assert file.read_text().count("\n") < 40
    (outcome,) = watching.watch(low, SILENT)
    assert (outcome.state, outcome.error) == ("COMPLETED", None)
    assert [step for step, _ in restarts_by_step(file)] == list(range(40))
    assert facts(outcome.job_id)["Restarts"] == "1"


def test_a_job_that_may_not_be_queued_again_fails_when_it_is_stopped(tmp_path: Path) -> None:
    (job,) = submission.submit([Count(str(tmp_path / "steps"), 6000)], hardware(requeue=False), tmp_path / "slurm")
    assert wait_until((tmp_path / "steps").exists, 30)
    command("scancel", "--signal=USR1", job.job_id)
    (outcome,) = watching.watch([job], SILENT)
    assert outcome.state == accounted(job.job_id) == "FAILED"
    assert outcome.error.strip().endswith("stopped by SIGUSR1; submit the same command again to go on")


@pytest.mark.slow
def test_at_its_time_limit_a_job_is_queued_again_and_one_that_does_not_listen_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    limited = hardware(time_minutes=1, signal_delay_seconds=40)
    listening, deaf = carried_out([Count(str(file), 400), Ignore()], tmp_path, limited)
    assert (listening.state, listening.error) == ("COMPLETED", None)
    assert [step for step, _ in restarts_by_step(file)] == list(range(400))
    assert int(facts(listening.job_id)["Restarts"]) >= 1
    assert deaf.state == "TIMEOUT"
    assert "DUE TO TIME LIMIT" in deaf.error


def test_a_refused_submission_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError) as refusal:
        submission.submit([Note("")] * 2, hardware(partition="nowhere"), tmp_path)
    assert str(refusal.value) == (
        "SLURM refuses the jobs of hardware=slurm/test: invalid partition specified: nowhere."
    )
    assert capfd.readouterr() == ("", "")


def test_after_ctrl_c_the_jobs_go_on_and_the_user_knows_how_to_end_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    (job,) = submission.submit([Count(str(tmp_path / "steps"), 6000)], hardware(), tmp_path / "slurm")
    shown = io.StringIO()
    monkeypatch.setattr(watching.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        watching.watch([job], Console(file=shown, width=200))
    assert f"`squeue --jobs={job.job_id}` shows them, `scancel {job.job_id}` ends them" in shown.getvalue()
    assert facts(job.job_id)["JobState"] in ("PENDING", "RUNNING")
    command("scancel", job.job_id)


def test_a_run_is_carried_out_by_its_job_and_a_bad_one_carries_its_sentence_back(
    tmp_path: Path, tiny_bert: Path
) -> None:
    shared = [f"results.dir={tmp_path / 'results'}", f"model.path={tiny_bert}", "data=sample", "budget=smoke"]
    good = [*shared, "method=bitfit", "task=glue/sst2", "measure=none"]
    jobs = [RunJob(good, str(tmp_path)), RunJob([*shared, "method.rank=-1"], str(tmp_path))]
    done, refused = carried_out(jobs, tmp_path, hardware())
    assert (done.state, done.error) == ("COMPLETED", None)
    (record,) = (tmp_path / "results").rglob("record.json")
    assert json.loads(record.read_text())["status"] == "complete"
    assert refused.state == "FAILED"
    assert "method.rank=-1 must be at least 1." in refused.error
