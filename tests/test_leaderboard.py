"""Boards: what is averaged, what is kept apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.leaderboard.aggregate import Board, averages, by_settings, frame, overall
from bench.leaderboard.publish import publish
from bench.store import Store
from tasks.metrics.averages import GLUE_EIGHT, SUPERGLUE_EIGHT
from tests.test_record import record, write


def test_seeds_of_one_setting_become_one_row() -> None:
    runs = frame(record(seed=seed, score=score, settings_id="x") for seed, score in enumerate((80.0, 82.0, 87.0)))
    row = by_settings(runs).iloc[0]
    assert (row.score_mean, row.seeds, row.seed_list) == (83.0, 3, "0 1 2")
    assert row.score_std == pytest.approx(13**0.5)  # deviations -3, -1, 4: (9 + 1 + 16) / 2
    assert row.trainable_parameters == 73728


def test_parameters_that_differ_from_seed_to_seed_are_shown_as_a_whole_number() -> None:
    runs = frame(record(seed=seed, trainable_parameters=99 + seed, settings_id="x") for seed in (0, 1, 3, 5))
    assert by_settings(runs)["trainable_parameters"].tolist() == [101]  # the mean is 101.25


def test_other_settings_precision_or_data_are_other_rows() -> None:
    base = record(settings_id="x")
    runs = frame([base, replace(base, settings_id="y"), replace(base, precision="bf16"), replace(base, device="cuda")])
    assert len(by_settings(runs)) == 4


def test_only_complete_runs_count() -> None:
    assert len(frame([record(settings_id="x"), record(status="failed", score=None, metrics={})])) == 1


def test_short_and_sample_runs_have_boards_of_their_own() -> None:
    assert Board.of("full", "hub").folder == Board.of("full", "mirror").folder == ""
    assert Board.of("quick", "mirror").folder == "quick"
    assert Board.of("quick", "sample").folder == "sample-quick"
    assert Board.of("full", "sample").folder == "sample-full"


def test_a_mean_over_tasks_is_given_only_where_none_is_missing() -> None:
    rows = [
        record(settings_id="x", task="glue/rte", score=60.0),
        record(settings_id="x", task="glue/sst2", score=80.0),
        record(settings_id="y", method="dora", task="glue/sst2", score=90.0),
    ]
    table = overall(by_settings(frame(rows))).set_index("method")
    assert table.loc["lora", "mean_score"] == 70.0
    assert pd.isna(table.loc["dora", "mean_score"])
    assert list(table["tasks"]) == [2, 1]


def test_publishing_the_same_records_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in (0, 1):
        value = record(seed=seed, run_id=f"{seed}", settings_id="x", score=80.0 + seed / 3)
        write(store.folder(value.task, value.model, value.method, value.run_id), value)
    first = {path: path.read_bytes() for path in publish(tmp_path)}
    assert {path: path.read_bytes() for path in publish(tmp_path)} == first
    names = {str(path.relative_to(tmp_path / "leaderboard")) for path in first}
    assert names == {"sample-quick/glue/sst2.csv", "sample-quick/overall.csv"}


def test_no_records_give_no_tables(tmp_path: Path) -> None:
    assert publish(tmp_path) == []


def test_a_benchmarks_average_is_its_own_and_missing_while_a_task_is() -> None:
    glue = [record(settings_id="x", task=f"glue/{task}", score=80.0, metrics={}) for task in GLUE_EIGHT]
    mrpc = record(settings_id="x", task="glue/mrpc", score=88.0, metrics={"accuracy": 0.88, "combined_score": 0.9})
    rows = [run for run in glue if run.task != "glue/mrpc"] + [mrpc]
    table = averages(by_settings(frame(rows)))
    assert table["glue_average"].tolist() == [81.0]
    assert table["glue_average_official"].isna().all(), "WNLI is missing"
    wnli = record(settings_id="x", task="glue/wnli", score=80.0, metrics={})
    assert averages(by_settings(frame([*rows, wnli])))["glue_average_official"].tolist() == [
        pytest.approx((8 * 80 + 90) / 9)
    ]


def test_subsets_of_one_task_are_never_averaged_together() -> None:
    runs = [record(settings_id="x", task="vtab/dtd", data_subset=kind) for kind in ("official", "resampled 0123")]
    assert sorted(by_settings(frame(runs))["data_subset"]) == ["official", "resampled"]


def test_superglue_needs_all_eight() -> None:
    runs = [record(settings_id="x", task=f"superglue/{task}", score=70.0, metrics={}) for task in SUPERGLUE_EIGHT]
    assert averages(by_settings(frame(runs)))["superglue_average"].tolist() == [70.0]
    assert len(averages(by_settings(frame(runs[1:])))) == 0
