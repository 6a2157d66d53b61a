"""The benchmark scripts, for a few steps of a tiny model: their figures follow from each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.conftest import ROOT

WIDTH, LAYERS = 64, 2


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_methods_are_set_against_lora_of_their_rank_and_targets(tiny_bert: Path, tmp_path: Path) -> None:
    table = tmp_path / "methods.csv"
    settings = (f"model.path={tiny_bert}", "data=sample", "--methods", "lora", "linear_probe", "--steps", "9")
    said = run("benchmark_methods.py", *settings, "--table", str(table))
    rows = pd.read_csv(table).set_index("method", drop=False)
    lora, probe = (rows.loc[name] for name in ("lora", "linear_probe"))
    assert lora["against"] == "rank=8 targets=[attention.query,attention.value]"
    assert lora["trainable_parameters"] == 2 * LAYERS * 8 * (WIDTH + WIDTH)
    assert (lora["activation_ratio"], lora["flops_ratio"]) == (1, 1)
    assert probe["against"] == "its defaults"
    assert probe["flops_ratio"] < 0.6, "nothing goes back through the backbone"
    for row in (lora, probe):
        assert 0 < row["step_ratio_lowest"] <= row["step_ratio"] <= row["step_ratio_highest"]
        assert f"{row['method']}: " in said


def test_the_harness_and_the_others_train_the_same_model(tiny_bert: Path) -> None:
    said = run("benchmark_training.py", f"model.path={tiny_bert}", "data=sample", "--pairs", "1", "--steps", "14")
    contestants = [line.split()[1] for line in said.splitlines() if line.startswith("│")]
    assert contestants == ["harness", "unmetered", "bare", "trainer"]
