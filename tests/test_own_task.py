"""The data set of docs/tasks.md: a YAML and two files, both outside this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT, RunCommand, the_record

PAGE = ROOT / "docs" / "tasks.md"
SETTINGS = ("method=lora", "training.max_steps=4", "measure=none")


@pytest.fixture
def own(tiny_bert: Path, tmp_path: Path) -> list[str]:
    """What the page's command says about the page's YAML and files without `idx`."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    yaml, data = tmp_path / "conf" / "task" / "reviews.yaml", tmp_path / "data" / "me" / "reviews" / "default"
    yaml.parent.mkdir(parents=True)
    yaml.write_text(block)
    data.mkdir(parents=True)
    for split, rows in (("train", 64), ("validation", 10)):
        labels = [row % 2 for row in range(rows)]
        texts = [f"{'good' if label else 'bad'} thing number {row}" for row, label in enumerate(labels)]
        pd.DataFrame({"text": texts, "label": labels}).to_parquet(data / f"{split}-00000-of-00001.parquet")
    asked = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "task=reviews", f"data.root={tmp_path / 'data'}"]
    return [*asked, f"model.path={tiny_bert}"]


def test_the_pages_data_set_is_scored_by_accuracy(own: list[str], command: RunCommand, tmp_path: Path) -> None:
    done = command(*own, *SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    folder, record = the_record(tmp_path / "results")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert list(predictions["id"]) == list(range(10))
    assert record.score == pytest.approx(100 * (predictions["label"] == predictions["prediction"]).mean())
    assert record.task == "reviews"


def test_it_can_be_tuned(own: list[str], command: RunCommand) -> None:
    done = command(*own, *SETTINGS, "tuning=grid", "tuning.trials=2", "tuning.steps=2")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_class_that_the_yaml_does_not_name_is_refused(own: list[str], command: RunCommand) -> None:
    done = command(*own, *SETTINGS, "task.labels=[good]")
    assert done.returncode == 2
    assert "has the label 1; labels must lie between 0 and 0" in done.stderr + done.stdout
