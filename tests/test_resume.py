"""Runs that are interrupted: a restart of the same command ends as if nothing had happened."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.files import write_json
from bench.records import checkpoint
from bench.records.checkpoint import Checkpoints
from bench.records.pulse import PROGRESS_FILE
from bench.records.record import RunRecord
from bench.records.schema import plain, read
from bench.records.workspace import RECORD_FILE, TOO_LARGE_FILE, lock_file, working_folder
from tests.conftest import ROOT, RunCommand, records, run_in, the_record
from tests.test_record import record

STEPS = 120
MEASURED = {"seconds", "samples_per_second"}


def arguments(model: Path, *more: str) -> list[str]:
    """A run of AdaLoRA, which has a state of its own, with dropout."""
    return [
        f"model.path={model}",
        "data=sample",
        "method=adalora",
        "measure=none",
        f"training.max_steps={STEPS}",
        "budget.evaluation_examples=64",
        *more,
    ]


def started(folder: Path, *settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "bench/run.py"), f"results.dir={folder / 'results'}", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job starts with it ignored
    )


def waited_for(what: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def checkpoints(folder: Path) -> list[Path]:
    return list(folder.rglob(checkpoint.FILE))


def killed_after_a_checkpoint(folder: Path, settings: list[str]) -> None:
    process = started(folder, *settings)
    waited_for(lambda: checkpoints(folder), process)
    process.kill()
    process.communicate()


def outcome(folder: Path) -> tuple[bytes, pd.DataFrame, RunRecord]:
    """What a run leaves that does not depend on how fast it was."""
    run, record = the_record(folder)
    adapter = (run / "adapter/adapter.safetensors").read_bytes()
    return adapter, pd.read_parquet(run / "predictions.parquet"), record


@pytest.fixture(scope="module")
def undisturbed(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, pd.DataFrame, RunRecord]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_in(folder, *arguments(tiny_bert))
    assert done.returncode == 0, done.stderr
    return outcome(folder)


def assert_the_same(
    a: tuple[bytes, pd.DataFrame, RunRecord], b: tuple[bytes, pd.DataFrame, RunRecord], model: Path
) -> None:
    assert a[0] == b[0]
    pd.testing.assert_frame_equal(a[1], b[1])
    for name in ("run_id", "score", "metrics", "final_train_loss", "train_steps", "train_samples"):
        assert getattr(a[2], name) == getattr(b[2], name), name


def test_a_killed_run_goes_on_and_ends_bit_identical(
    undisturbed: tuple[bytes, pd.DataFrame, RunRecord], tiny_bert: Path, tmp_path: Path
) -> None:
    settings = arguments(tiny_bert, "training.checkpoint_steps=7")
    killed_after_a_checkpoint(tmp_path, settings)
    done = run_in(tmp_path, *settings)
    assert done.returncode == 0, done.stderr
    assert "goes on from step" in done.stdout
    assert_the_same(outcome(tmp_path), undisturbed, tiny_bert)
    folder, record = the_record(tmp_path)
    assert [stop["step"] % 7 for stop in record.interruptions] == [0]
    assert sum(record.phase_seconds.values()) == pytest.approx(record.wall_seconds, rel=0.05)
    history = (folder / "history.jsonl").read_text().splitlines()
    assert len(history) == STEPS // 10, "no point of the curve is lost or there twice"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "nothing else is left"
    assert not {checkpoint.FILE, PROGRESS_FILE} & {path.name for path in folder.iterdir()}


def test_a_run_that_was_killed_after_its_training_does_not_train_again(
    undisturbed: tuple[bytes, pd.DataFrame, RunRecord], tiny_bert: Path, tmp_path: Path
) -> None:
    settings = arguments(tiny_bert, f"training.checkpoint_steps={STEPS}")
    killed_after_a_checkpoint(tmp_path, settings)
    done = run_in(tmp_path, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"goes on from step {STEPS} of {STEPS}" in done.stdout
    assert_the_same(outcome(tmp_path), undisturbed, tiny_bert)
    _, record = the_record(tmp_path)
    assert record.train_samples_per_second is not None
    assert record.first_step_seconds is not None


def test_a_run_whose_batch_was_halved_goes_on_with_the_halves(tiny_bert: Path, tmp_path: Path) -> None:
    """What did not fit before the interruption is not tried again, which would cost the checkpoint."""
    settings = arguments(tiny_bert, "training.checkpoint_steps=7")
    killed_after_a_checkpoint(tmp_path, settings)
    (found,) = checkpoints(tmp_path)
    (found.parent / TOO_LARGE_FILE).write_text("[32]")
    done = run_in(tmp_path, *settings)
    assert done.returncode == 0, done.stderr
    assert "goes on from step" in done.stdout
    _, record = the_record(tmp_path)
    assert (record.micro_batch_size, record.too_large_micro_batches) == (16, [32])


def test_a_run_stops_for_every_signal_with_a_checkpoint_and_goes_on(
    undisturbed: tuple[bytes, pd.DataFrame, RunRecord], tiny_bert: Path, tmp_path: Path
) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        before = [path.stat().st_mtime_ns for path in checkpoints(tmp_path)]
        process = started(tmp_path, *arguments(tiny_bert, "training.log_steps=1"))
        beaten = [path.read_text() for path in tmp_path.rglob(PROGRESS_FILE)]
        waited_for(
            lambda old=beaten: [path.read_text() for path in tmp_path.rglob(PROGRESS_FILE)] not in ([], old), process
        )
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        if process.returncode == 0:
            break  # the last part was too short to be hit
        assert process.returncode == 128 + number, said
        assert "the same command goes on" in said
        assert [path.stat().st_mtime_ns for path in checkpoints(tmp_path)] not in ([], before)
        working = checkpoints(tmp_path)[0].parent
        interrupted = read_record(working)
        assert (interrupted.status, interrupted.score) == ("interrupted", None)
        assert interrupted.train_steps
    else:
        assert run_in(tmp_path, *arguments(tiny_bert, "training.log_steps=1")).returncode == 0
    adapter, predictions, record = outcome(tmp_path)
    assert adapter == undisturbed[0]
    pd.testing.assert_frame_equal(predictions, undisturbed[1])
    assert record.interruptions


def read_record(folder: Path) -> RunRecord:
    import json

    return read(json.loads((folder / RECORD_FILE).read_text()))


def test_a_checkpoint_that_cannot_be_read_is_said_and_the_run_starts_anew(
    undisturbed: tuple[bytes, pd.DataFrame, RunRecord], tiny_bert: Path, tmp_path: Path
) -> None:
    settings = arguments(tiny_bert, "training.checkpoint_steps=7")
    killed_after_a_checkpoint(tmp_path, settings)
    with checkpoints(tmp_path)[0].open("r+b") as file:
        file.truncate(1000)
    done = run_in(tmp_path, *settings)
    assert done.returncode == 0, done.stderr
    assert "starts anew: its checkpoint cannot be read" in done.stdout
    assert_the_same(outcome(tmp_path), undisturbed, tiny_bert)


def test_a_checkpoint_of_another_device_or_of_other_code_is_not_taken_up(tmp_path: Path) -> None:
    origin = {"device": "a GPU", "torch": "2.13.0"}
    Checkpoints(tmp_path, None, None, origin).save({"step": 3})
    assert Checkpoints(tmp_path, None, None, dict(origin)).load() == ({"step": 3}, None)
    elsewhere = Checkpoints(tmp_path, None, None, origin | {"device": "another GPU"})
    assert elsewhere.load() == (None, "its checkpoint was written with another device")


def test_two_processes_never_train_the_same_run(tiny_bert: Path, tmp_path: Path) -> None:
    sweep = ["-m", *arguments(tiny_bert, "seed=0,1")]
    both = [started(tmp_path, *sweep) for _ in range(2)]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    found = records(tmp_path)
    assert sorted(record.seed for record in found.values()) == [0, 1]
    assert not any("~" in folder.name for folder in found)
    trained = sum(text.count(f"step {STEPS}/{STEPS}") for text in said)
    assert trained == 2
    assert any("comes last" in text for text in said)


def test_the_claim_of_a_process_on_another_machine_holds_until_its_heartbeat_is_missed(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.records import workspace

    final = tmp_path / "run"
    with workspace.claimed(final):
        claim = lock_file(final).read_text()
    elsewhere = claim.replace(f"host={os.uname().nodename}", "host=elsewhere")
    assert elsewhere != claim
    lock_file(final).write_text(elsewhere)
    with pytest.raises(workspace.Held, match="on elsewhere"), workspace.claimed(final):
        pass
    monkeypatch.setattr(workspace, "LEASE_SECONDS", 2.0)
    lock_file(final).write_text(elsewhere.replace("duration=60.0", "duration=2.0"))
    start = time.monotonic()
    with workspace.claimed(final, wait=True):
        assert 1.5 < time.monotonic() - start < 10
    assert not working_folder(final).exists()


def test_a_claim_that_lost_its_text_with_its_machine_holds_as_long_as_a_heartbeat(tmp_path: Path) -> None:
    from bench.records import workspace

    final = tmp_path / "run"
    lock_file(final).touch()
    with pytest.raises(workspace.Held), workspace.claimed(final):
        pass
    long_ago = time.time() - workspace.LEASE_SECONDS - 1
    os.utime(lock_file(final), (long_ago, long_ago))
    with workspace.claimed(final):
        pass
    assert not lock_file(final).exists()


def test_what_a_process_left_that_died_after_publishing_is_tidied_up(tiny_bert: Path, tmp_path: Path) -> None:
    sweep = ["-m", *arguments(tiny_bert, "training.max_steps=2")]
    assert run_in(tmp_path, *sweep).returncode == 0
    folder, _ = the_record(tmp_path)
    working_folder(folder).mkdir()
    long_ago = time.time() - 3600
    lock_file(folder).touch()
    os.utime(lock_file(folder), (long_ago, long_ago))
    assert run_in(tmp_path, *sweep).returncode == 0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_process_that_lost_its_claim_puts_no_record_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after minutes in which it was stopped and another process took the run over."""
    from bench.records import workspace

    monkeypatch.setattr(workspace, "LEASE_SECONDS", 1.0)
    final = tmp_path / "run"
    with workspace.claimed(final) as ours:
        ours.check_claim()
        lock_file(final).unlink()
        with workspace.claimed(final):
            time.sleep(1.5)
            with pytest.raises(workspace.ClaimLost):
                ours.publish()
    assert not final.exists()


def test_an_interrupted_repetition_does_not_take_the_place_of_a_complete_run(tmp_path: Path) -> None:
    from bench.records import workspace

    final = tmp_path / "run"
    for run in (record(), record(status="interrupted", score=None, metrics={})):
        with workspace.claimed(final) as ours:
            write_json(ours.folder / RECORD_FILE, plain(run))
            ours.leave()
        assert read_record(final).status == "complete"
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["run"]


def test_a_run_that_hangs_ends_as_failed(tiny_bert: Path, tmp_path: Path) -> None:
    """The whole process is stopped for longer than a step may take."""
    process = started(
        tmp_path, *arguments(tiny_bert, "training.max_steps=100000", "hardware.step_timeout_minutes=0.05")
    )
    waited_for(lambda: list(tmp_path.rglob(PROGRESS_FILE)), process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 1
    _, record = the_record(tmp_path)
    assert record.status == "failed"
    assert record.error is not None
    assert "no optimizer step ended for 3 s" in record.error


def test_a_truncated_record_is_set_aside_and_the_run_done_again(sample: RunCommand, tmp_path: Path) -> None:
    assert sample().returncode == 0
    folder, record = the_record(tmp_path)
    with (folder / RECORD_FILE).open("r+") as file:
        file.truncate(300)
    assert sample().returncode == 0
    kept = folder.with_name(f"{folder.name}~1")
    assert len((kept / RECORD_FILE).read_text()) == 300
    assert read_record(folder).score == record.score


def test_a_run_whose_folder_was_elsewhere_for_a_while_is_not_complete_without_its_files(
    tiny_bert: Path, tmp_path: Path
) -> None:
    """What it wrote meanwhile went into a folder that it made anew."""
    settings = arguments(tiny_bert, "budget.evaluation_examples=null", "measure=standard", "data=sample")
    process = started(tmp_path, *settings)
    waited_for(lambda: any(file.stat().st_size for file in tmp_path.rglob("history.jsonl")), process)
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    results.rename(elsewhere)
    waited_for(lambda: list(results.rglob("*.safetensors")), process)
    results.rename(tmp_path / "impostor")
    elsewhere.rename(results)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "has vanished" in said
    assert run_in(tmp_path, *settings).returncode == 0
    assert [record.status for record in records(results).values()].count("complete") == 1


def test_a_full_disk_fails_one_run_and_loses_nothing(tiny_bert: Path, tmp_path: Path) -> None:
    """The file size limit stands for the disk: what exceeds it cannot be written."""
    shutil.copytree(tiny_bert, tmp_path / "model")
    settings = arguments(tmp_path / "model", "training.checkpoint_steps=7", "training.max_steps=14")
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/run.py"), f"results.dir={tmp_path / 'results'}", *settings],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    assert done.returncode == 1
    assert "the checkpoint could not be written" in done.stdout
    assert "could not be recorded" in done.stdout
    assert not records(tmp_path)
    assert run_in(tmp_path, *settings).returncode == 0
