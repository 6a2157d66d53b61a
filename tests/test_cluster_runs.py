"""Sweeps on a real SLURM as a user starts them: the table, the exit code, and what SLURM itself says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.conftest import ROOT, run_in, the_record
from tests.slurm_cluster import wait_until
from tests.test_resume import checkpoints, read_record, started

HERE = ["data=sample", "measure=none", "budget.evaluation_examples=64"]
ON_SLURM = ["hardware.slurm.cpus_per_task=1", "hardware.slurm.memory_gb=1", "hardware.slurm.signal_delay_seconds=30"]


@pytest.fixture(autouse=True)
def _on_the_cluster(slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)


def states(said: str) -> set[str]:
    """What sacct says about the jobs that a command submitted."""
    array = re.findall(r"SLURM (?:job )?(\d+):", said)[0]
    listed = subprocess.check_output(
        ["sacct", "-j", array, "--noheader", "-o", "JobID,State", "--parsable2"], text=True
    )
    return {line.split("|")[1] for line in listed.splitlines()}


def test_a_tuned_sweep_on_slurm_ends_with_the_records_of_one_machine_and_skips_them_next_time(
    tiny_bert: Path, tmp_path: Path
) -> None:
    sweep = [
        "-m",
        *HERE,
        f"model.path={tiny_bert}",
        "training.max_steps=6",
        "method=lora,bitfit",
        "hardware.precision=fp32",
        *("tuning=grid", "tuning.trials=2", "tuning.steps=4"),
    ]
    folders = [tmp_path / name for name in ("here", "slurm")]
    for folder, hardware in zip(folders, (["hardware=cpu"], ["hardware=slurm/cpu", *ON_SLURM]), strict=True):
        folder.mkdir()
        done = run_in(folder, *sweep, *hardware)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.rstrip().endswith("2 complete")
    assert states(done.stdout) == {"COMPLETED"}
    here, slurm = ({path.name: path for path in folder.glob("results/runs/*/*/*/*/*")} for folder in folders)
    assert here.keys() == slurm.keys()
    assert len(here) == 2 * (2 + 1)
    for run_id, run in here.items():
        assert read_record(run).score == read_record(slurm[run_id]).score
        pd.testing.assert_frame_equal(*(pd.read_parquet(x / "predictions.parquet") for x in (run, slurm[run_id])))
    again = run_in(folders[1], *sweep, "hardware=slurm/cpu", *ON_SLURM)
    assert again.returncode == 0
    assert "2 runs, 2 of them finished" in again.stdout
    assert "submitted" not in again.stdout


@pytest.fixture
def large(tiny_bert: Path, tmp_path: Path) -> Path:
    """A BERT of 512 MB, most of it word embeddings; training all of it takes 2 GB beside the program."""
    folder = tmp_path / "large"
    shutil.copytree(tiny_bert, folder)
    config = BertConfig.from_pretrained(tiny_bert, vocab_size=2_000_000)
    with torch.device("meta"):
        model = BertForSequenceClassification(config)
    model.to_empty(device="cpu").save_pretrained(folder)
    return folder


def test_a_run_that_cannot_have_its_memory_is_failed_for_slurm_too_with_its_own_reason(
    large: Path, tmp_path: Path
) -> None:
    limit = 'hardware.slurm.setup=["ulimit -v 2500000"]'
    settings = [*HERE, f"model.path={large}", "method=full", "training.max_steps=1"]
    done = run_in(tmp_path, "-m", *settings, "hardware=slurm/cpu", *ON_SLURM, limit)
    assert done.returncode == 1, done.stdout
    assert states(done.stdout) == {"FAILED"}
    _, record = the_record(tmp_path)
    assert record.status == "out_of_memory"
    assert record.error is not None
    assert record.error.split(":")[0] in done.stdout
    assert "1 out_of_memory" in done.stdout
    assert "Traceback (most recent call last)" in done.stdout
    status = subprocess.run(
        [sys.executable, str(ROOT / "scripts/sweep_status.py"), "--results", str(tmp_path / "results")],
        capture_output=True,
        text=True,
    )
    assert status.returncode == 1
    assert "1 out_of_memory" in status.stdout


def test_a_preempted_run_on_two_nodes_goes_on_from_its_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    steps = ["training.max_steps=600", "training.checkpoint_steps=3", "method=adalora"]
    settings = [*HERE, f"model.path={tiny_bert}", *steps, "hardware=slurm/cpu-2x1", *ON_SLURM]
    process = started(tmp_path, *settings, "hardware.slurm.partition=low", "hardware.slurm.cpus_per_task=4")
    wait_until(lambda: bool(checkpoints(tmp_path)), 180)
    job = ["sbatch", "--partition=debug", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(job, check=True, capture_output=True)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    _, record = the_record(tmp_path)
    assert (record.status, record.processes, record.machines, record.train_steps) == ("complete", 2, 2, 600)
    assert record.interruptions
    assert states(said) == {"COMPLETED"}
