"""How far a sweep is, told from the results folder alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from bench.records import status
from bench.records.pulse import PROGRESS_FILE
from tests.conftest import ROOT, run_in, the_record
from tests.test_resume import STEPS, arguments, checkpoints, started, waited_for


def shown(results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/sweep_status.py"), "--results", str(results), *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_sweep_shows_what_is_running_interrupted_waiting_and_complete(tiny_bert: Path, tmp_path: Path) -> None:
    sweep = ["-m", *arguments(tiny_bert, "seed=0,1", "training.checkpoint_steps=7")]
    process = started(tmp_path, *sweep)
    waited_for(lambda: checkpoints(tmp_path) and list(tmp_path.rglob(PROGRESS_FILE)), process)
    process.send_signal(signal.SIGSTOP)
    running = shown(tmp_path / "results")
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.communicate()
    assert running.returncode == 1
    assert "1 running, 1 waiting" in running.stdout
    assert f"of {STEPS}, process {process.pid} on" in " ".join(running.stdout.split())
    assert "1 interrupted, 1 waiting" in shown(tmp_path / "results").stdout
    assert run_in(tmp_path, *sweep).returncode == 0
    done = shown(tmp_path / "results")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 complete")
    assert "2 runs  results.dir=" in shown(tmp_path / "results", "--list").stdout


def test_a_failed_run_shows_its_reason_and_a_cut_record_that_it_cannot_be_read(tiny_bert: Path, tmp_path: Path) -> None:
    done = run_in(tmp_path, "-m", *arguments(tiny_bert, "training.learning_rate=1e30"))
    assert done.returncode == 1
    folder, record = the_record(tmp_path)
    found = status.of_run(tmp_path / "results", folder)
    assert (found.status, found.detail) == ("diverged", record.error)
    (folder / "record.json").write_text('{"run_id": ')
    assert status.of_run(tmp_path / "results", folder).status == status.UNREADABLE


def test_an_unknown_sweep_is_one_sentence(tmp_path: Path) -> None:
    done = shown(tmp_path, "abc")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} has no sweep abc.\n"


def written(results: Path, name: str, text: str) -> Path:
    path = results / "sweeps" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_an_id_that_fits_several_sweeps_is_one_sentence(tmp_path: Path) -> None:
    for name in ("abc", "abd"):
        written(tmp_path, name, json.dumps({"id": name, "command": [], "started_at": name, "runs": []}))
    done = shown(tmp_path, "ab")
    assert (done.returncode, done.stderr) == (2, "error: ab may be any of the sweeps abc, abd.\n")
    assert shown(tmp_path, "abc").stdout.startswith("sweep abc: 0 runs")


def test_a_damaged_sweep_is_one_sentence(tmp_path: Path) -> None:
    for text in ('{"id": ', "[]", '{"id": "abc"}'):
        damaged = written(tmp_path, "abc", text)
        done = shown(tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {damaged} is damaged (")
        assert done.stderr.count("\n") == 1
