"""The soak: what it finds in two results folders, and a short one for real."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import RunRecord
from bench.records.workspace import lock_file, working_folder
from scripts.soak.comparison import MEASURED, CutRecord, faults, planned
from tests.conftest import ROOT, run_in

SWEEP = (
    "task=glue/sst2",
    "data=sample",
    "measure=none",
    "budget.evaluation_examples=40",
    "training.batch_size=4",
    "training.max_steps=12",
    "training.checkpoint_steps=2",
    "training.log_steps=1",
)


@pytest.fixture(scope="module")
def calm(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a sweep of two runs."""
    folder = tmp_path_factory.mktemp("calm")
    done = run_in(folder, "-m", f"model.path={tiny_bert}", "method=lora,bitfit", *SWEEP)
    assert done.returncode == 0, done.stderr
    return folder / "results"


@pytest.fixture
def copied(calm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calm, tmp_path / "results"))


def first_run(results: Path) -> Path:
    return results / planned(results)[0]


def rewrite(folder: Path, **values: Any) -> None:
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_equal_results_have_no_fault_however_long_they_took(calm: Path, copied: Path) -> None:
    assert len(planned(calm)) == 2
    rewrite(first_run(copied), wall_seconds=1e6, train_samples_per_second=1.0, hostname="elsewhere")
    assert faults(calm, copied) == []


def test_every_column_is_compared_that_is_not_said_to_be_measured() -> None:
    names = {column.name for column in fields(RunRecord)}
    assert names >= MEASURED
    assert names - MEASURED >= {"score", "metrics", "final_train_loss", "train_steps", "train_samples", "settings_id"}


def test_another_score_is_seen_in_the_record_and_on_the_boards(calm: Path, copied: Path) -> None:
    rewrite(first_run(copied), score=12.5)
    found = faults(calm, copied)
    assert found[0].startswith(f"{planned(calm)[0]}: score is 12.5 and was ")
    assert [fault for fault in found[1:] if not fault.endswith("has other rows")] == []
    assert len(found) == 3, "the rows of its benchmark, and their comparisons"


def test_a_record_that_is_gone_is_lost(calm: Path, copied: Path) -> None:
    (first_run(copied) / "record.json").unlink()
    assert f"lost: {planned(calm)[0]} has no complete record" in faults(calm, copied)


def test_a_run_that_was_done_twice_is_seen(calm: Path, copied: Path) -> None:
    run = first_run(copied)
    shutil.copytree(run, run.with_name(f"{run.name}~1"))
    assert faults(calm, copied) == [f"twice: {planned(calm)[0]}~1 is complete, too"]


def test_what_was_left_of_a_cut_record_must_be_kept(calm: Path, copied: Path) -> None:
    run, name = first_run(copied), planned(calm)[0]
    cut = CutRecord(name, b'{"run_id": ')
    assert faults(calm, copied, [cut]) == [f"not kept: what was left of the record in {name}"]
    aside = run.with_name(f"{run.name}~1")
    aside.mkdir()
    (aside / "record.json").write_bytes(cut.rest)
    assert faults(calm, copied, [cut]) == []


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda run: flip_a_bit(next(run.glob("adapter/*.safetensors"))), ".safetensors has other bytes"),
        (lambda run: shutil.copy(run.with_name("other"), run / "predictions.parquet"), "predictions.parquet has other"),
        (lambda run: (run / "history.jsonl").write_text('{"step": 2, "lo'), "history.jsonl has other points"),
        (lambda run: (run / "traceback.txt").touch(), "its folder holds ['adapter', 'config.yaml',"),
        (lambda run: (run / "checkpoint.pt.17.partial").touch(), "checkpoint.pt.17.partial"),
        (lambda run: lock_file(run).touch(), "left over: "),
        (lambda run: working_folder(run).mkdir(), "left over: "),
    ],
    ids=["adapter", "predictions", "history", "traceback", "half a checkpoint", "claim", "working folder"],
)
def test_a_difference_in_any_file_is_a_fault(
    change: Callable[[Path], None], fault: str, calm: Path, copied: Path
) -> None:
    run, other = (copied / name for name in planned(calm))
    shutil.copy(other / "predictions.parquet", run.with_name("other"))
    change(run)
    assert any(fault in found for found in faults(calm, copied))


@pytest.mark.slow
def test_a_sweep_that_is_struck_again_and_again_ends_as_one_in_peace(tiny_bert: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/chaos.py"), "--kills", "7", "--folder", str(tmp_path / "soak")]
    sweep = [f"model.path={tiny_bert}", "method=lora,adalora", "seed=0,1", *SWEEP]
    done = subprocess.run([*command, *sweep], capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: equal, nothing lost, nothing twice" in done.stdout
    assert "SIGKILL" in done.stdout
