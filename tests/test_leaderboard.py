"""Boards: what is averaged, what is kept apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.leaderboard.boards import Boards, Sources
from bench.leaderboard.columns import USUAL_SPAN
from bench.leaderboard.documents import LEGEND, documents
from bench.leaderboard.documents import score as in_document
from bench.leaderboard.files import as_csv
from bench.leaderboard.overall import averages, overall
from bench.leaderboard.pareto import pareto
from bench.leaderboard.profiles import profiles
from bench.leaderboard.publish import publish
from bench.leaderboard.rows import WITHOUT_SCORE, last_of_each_seed, method_labels, rows_of
from bench.leaderboard.task_sets import over_equal_tasks
from bench.records.record import RunRecord
from bench.records.store import Store
from bench.settings import TuningSettings
from tasks.metrics.averages import GLUE_EIGHT, SUPERGLUE_EIGHT
from tests.conftest import runs_of
from tests.test_record import record, write


def test_seeds_of_one_setting_become_one_row() -> None:
    runs = runs_of(record(seed=seed, score=score, settings_id="x") for seed, score in enumerate((80.0, 82.0, 87.0)))
    row = rows_of(runs).iloc[0]
    assert (row.score_mean, row.seeds, row.seed_list) == (83.0, 3, "0 1 2")
    assert row.score_std == pytest.approx(13**0.5)  # deviations -3, -1, 4: (9 + 1 + 16) / 2
    assert row.trainable_parameters == 73728


def test_parameters_that_differ_from_seed_to_seed_are_shown_as_a_whole_number() -> None:
    runs = runs_of(record(seed=seed, trainable_parameters=99 + seed, settings_id="x") for seed in (0, 1, 3, 5))
    assert rows_of(runs)["trainable_parameters"].tolist() == [101]  # the mean is 101.25


def test_other_settings_precision_or_data_are_other_rows() -> None:
    base = record(settings_id="x")
    runs = runs_of(
        [base, replace(base, settings_id="y"), replace(base, precision="bf16"), replace(base, device="cuda")]
    )
    assert len(rows_of(runs)) == 4


UNTESTED: dict[str, Any] = {"separable_from_best": None, "lost_seeds": 0}
NOTHING_LOST = pd.DataFrame(columns=WITHOUT_SCORE)


def settings(**sections: dict[str, object]) -> RunRecord:
    """A record with these sections of settings."""
    return record(settings_id="x", settings=sections)


def test_runs_that_differ_in_the_models_settings_or_weights_stand_in_groups_of_their_own() -> None:
    base = settings(model={"path": None, "head_dropout": None})
    for other in (
        settings(model={"path": None, "head_dropout": 0.1}),
        settings(model={"path": None, "head_dropout": None, "image_size": 384}),
        settings(model={"path": "/weights", "head_dropout": None}),
        replace(base, model_sha256="f" * 64),
        replace(base, model_revision="another"),
    ):
        rows = rows_of(runs_of([base, other]))
        assert (rows["row"].nunique(), rows["group"].nunique()) == (2, 2)


def test_the_same_weights_in_a_folder_are_the_same_model() -> None:
    paths = (None, "/weights")
    runs = [replace(settings(model={"path": path}), seed=seed, model_sha256="f") for seed, path in enumerate(paths)]
    assert rows_of(runs_of(runs))["seeds"].tolist() == [2]


def test_two_settings_of_a_task_are_two_tasks_of_one_group() -> None:
    short, long, templated = (
        settings(task={"max_new_tokens": 300, "template": "Q"}),
        settings(task={"max_new_tokens": 512, "template": "Q"}),
        settings(task={"max_new_tokens": 300, "template": "Question"}),
    )
    rows = rows_of(runs_of([short, long, templated]))
    assert (rows["row"].nunique(), rows["group"].nunique()) == (3, 1)
    assert rows["rank"].tolist() == [1, 1, 1]


def test_where_the_data_of_a_task_come_from_is_no_setting_of_it() -> None:
    first, second = (settings(task={"repository": name, "epochs": 3}) for name in ("a/glue", "b/glue"))
    assert rows_of(runs_of([first, replace(second, seed=1)]))["seeds"].tolist() == [2]


def test_the_size_of_forward_passes_tells_rows_of_one_group_apart() -> None:
    runs = [settings(hardware={"per_device_batch_size": size}) for size in (None, 8)]
    rows = rows_of(runs_of(runs))
    assert (rows["settings_id"].tolist(), rows["group"].nunique()) == (["x", "x-b8"], 1)


def test_records_without_settings_have_a_row() -> None:
    old = record(settings_id=None, settings={}, model_repository=None, schema_version=1)
    assert rows_of(runs_of([old]))["task_settings_id"].tolist() == ["unknown"]


def test_of_two_runs_of_one_seed_the_one_that_finished_last_counts() -> None:
    scores = {"b": (70.0, "2026-01-03T00:00:00"), "c": (80.0, "2026-01-02T00:00:00"), "a": (90.0, None)}
    runs = [record(settings_id="x", run_id=name, score=s, finished_at=at) for name, (s, at) in scores.items()]
    assert last_of_each_seed(runs_of(runs))["score"].tolist() == [70.0]
    assert last_of_each_seed(runs_of(run for run in runs if run.run_id != "b"))["score"].tolist() == [80.0]
    equal = [replace(run, finished_at="2026-01-01T00:00:00") for run in runs]
    assert last_of_each_seed(runs_of(equal))["score"].tolist() == [80.0]  # the run called c
    boards = Boards.of(Sources(runs_of([*runs, replace(runs[0], seed=1, score=72.0)]), runs_of([]), Path("nowhere")))
    row = boards.rows.iloc[0]
    assert (row.seeds, row.score_mean, row.score_std) == (2, 71.0, pytest.approx(2**0.5))


def test_seeds_that_diverged_or_failed_are_counted(tmp_path: Path) -> None:
    kept = record(settings_id="x", data_source="hub", run_id="0")
    ended = replace(kept, score=None, metrics={})
    endings = ["complete", "diverged", "failed", "out_of_memory", "interrupted"]
    for seed, status in enumerate(endings):
        run = replace(ended if seed else kept, seed=seed, status=status, run_id=str(seed))
        write(Store(tmp_path).folder(run.task, run.model, run.method, run.run_id), run)
    publish(tmp_path, pages=False)
    glue = tmp_path / "leaderboard" / "glue.csv"
    assert pd.read_csv(glue)[["seeds", "lost_seeds"]].to_numpy().tolist() == [[1, 3]]
    again = replace(kept, seed=1, run_id="9")
    write(Store(tmp_path).folder(again.task, again.model, again.method, again.run_id), again)
    publish(tmp_path, pages=False)
    assert pd.read_csv(glue)[["seeds", "lost_seeds"]].to_numpy().tolist() == [[2, 2]]


def test_equal_scores_in_another_order_share_a_rank() -> None:
    runs = runs_of(
        record(method=method, seed=seed, score=score, settings_id="x")
        for method, scores in (("lora", (80.1, 80.1, 80.2)), ("dora", (80.2, 80.1, 80.1)))
        for seed, score in enumerate(scores)
    )
    assert sum((80.1, 80.1, 80.2)) != sum((80.2, 80.1, 80.1))
    assert rows_of(runs)["rank"].tolist() == [1, 1]


def test_only_complete_runs_count() -> None:
    assert len(runs_of([record(settings_id="x"), record(status="failed", score=None, metrics={})])) == 1


def test_what_stands_in_one_group_shares_all_but_method_and_task() -> None:
    base = record(settings_id="x")
    for other in (
        {"model": "bert-base"},
        {"budget": "full"},
        {"recipe_id": "another"},
        {"tuning": "grid", "tuning_trials": 6, "tuning_steps": 150},
        {"data_source": "hub"},
        {"precision": "bf16"},
        {"hardware": {"device_name": "NVIDIA H100"}},
        {"processes": 2},
        {"versions": {"torch": "2.14.0"}},
    ):
        groups = rows_of(runs_of([base, replace(base, **other)]))["group"]
        assert groups.nunique() == 2, other
    alike = rows_of(runs_of([base, replace(base, method="dora"), replace(base, task="glue/rte")]))["group"]
    assert (len(alike), alike.nunique()) == (3, 1)


def test_rows_are_ranked_within_their_task_and_group() -> None:
    base = record(settings_id="x", score=80.0)
    rows = [base, replace(base, method="dora", score=90.0), replace(base, method="ia3", precision="bf16", score=99.0)]
    ranks = rows_of(runs_of(rows)).set_index("method")["rank"]
    assert ranks.to_dict() == {"dora": 1, "lora": 2, "ia3": 1}


def test_the_interval_of_three_seeds_is_that_of_students_table() -> None:
    runs = runs_of(record(seed=seed, score=score, settings_id="x") for seed, score in enumerate((80.0, 82.0, 87.0)))
    row = rows_of(runs).iloc[0]
    assert row.score_high - row.score_mean == pytest.approx(4.303 * 13**0.5 / 3**0.5, rel=1e-3)  # t(2) at 97.5 %
    assert row.score_mean - row.score_low == pytest.approx(row.score_high - row.score_mean)


def test_a_single_seed_has_no_interval() -> None:
    row = rows_of(runs_of([record(settings_id="x")])).iloc[0]
    assert pd.isna(row.score_std)
    assert pd.isna(row.score_low)


def over_tasks(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """The overall table of (method, task, score), by method."""
    runs = runs_of(record(settings_id="x", method=method, task=task, score=score) for method, task, score in rows)
    return overall(over_equal_tasks(rows_of(runs).assign(lost_seeds=0), runs))


def test_methods_are_compared_over_tasks_that_all_of_them_have() -> None:
    table = over_tasks(
        *(("lora", task, 70.0) for task in ("glue/rte", "glue/sst2", "glue/mrpc")),
        *(("dora", task, 80.0) for task in ("glue/rte", "glue/sst2")),
        ("ia3", "glue/sst2", 99.0),
    )
    assert table[["tasks", "method", "mean_score"]].to_numpy().tolist() == [
        ["glue/mrpc glue/rte glue/sst2", "lora", 70.0],
        ["glue/rte glue/sst2", "dora", 80.0],
        ["glue/rte glue/sst2", "lora", 70.0],
    ]


def test_ranks_points_and_wins_over_tasks_by_hand() -> None:
    table = over_tasks(
        ("lora", "glue/rte", 60.0), ("lora", "glue/sst2", 90.0), ("dora", "glue/rte", 70.0), ("dora", "glue/sst2", 90.0)
    ).set_index("method")
    assert table["mean_score"].to_dict() == {"dora": 80.0, "lora": 75.0}
    assert table["mean_rank"].to_dict() == {"dora": 1.25, "lora": 1.75}  # a tie shares the ranks 1 and 2
    assert table["borda_count"].to_dict() == {"dora": 1.5, "lora": 0.5}
    assert table["win_rate"].to_dict() == {"dora": 0.75, "lora": 0.25}
    assert table["probability_over_lora"].to_dict() == {"dora": 0.75, "lora": pytest.approx(math.nan, nan_ok=True)}
    assert table["critical_difference"].tolist() == [pytest.approx(1.960 * (2 * 3 / (6 * 2)) ** 0.5, rel=1e-3)] * 2


def test_a_profile_is_the_share_of_runs_above_each_threshold() -> None:
    cells = [("glue/rte", 0, 60.0), ("glue/rte", 1, 64.0), ("glue/sst2", 0, 80.0), ("glue/sst2", 1, 90.0)]
    runs = runs_of(record(settings_id="x", task=task, seed=seed, score=score) for task, seed, score in cells)
    table = profiles(over_equal_tasks(rows_of(runs).assign(lost_seeds=0), runs))
    above = table.set_index("threshold")["share"]
    assert (above.index[0], above.iloc[0]) == (59.0, 1.0)
    assert (above.index[-1], above.iloc[-1]) == (90.0, 0.0)
    assert all(share == np.mean([score > level for _, _, score in cells]) for level, share in above.items())
    assert (table["share_low"] <= table["share"]).all()
    assert (table["share"] <= table["share_high"]).all()


def test_two_revisions_of_a_tasks_data_are_two_tasks() -> None:
    runs = runs_of(record(settings_id="x", data_revision=revision) for revision in ("a" * 40, "b" * 40))
    rows = rows_of(runs).assign(lost_seeds=0)
    assert overall(over_equal_tasks(rows, runs))["tasks"].tolist() == [f"glue/sst2@{'a' * 12} glue/sst2@{'b' * 12}"]
    assert len(averages(rows)) == 0


def test_two_revisions_of_one_task_leave_the_averages_of_other_benchmarks() -> None:
    glue = [record(settings_id="x", task="glue/rte", data_revision=revision) for revision in ("a" * 40, "b" * 40)]
    superglue = [record(settings_id="x", task=f"superglue/{task}", score=70.0) for task in SUPERGLUE_EIGHT]
    table = averages(rows_of(runs_of([*glue, *superglue])))
    assert table["superglue_average"].tolist() == [70.0]
    assert table["glue_average"].isna().all()


def test_two_settings_of_a_task_have_columns_of_their_own() -> None:
    runs = [settings(task={"max_new_tokens": limit}) for limit in (300, 512)]
    rows = rows_of(runs_of([replace(runs[0], score=10.0), replace(runs[1], score=20.0)]))
    first, second = sorted("glue/sst2#" + rows["task_settings_id"])
    columns = documents(rows.assign(**UNTESTED), NOTHING_LOST)["leaderboard.md"].splitlines()[2]
    assert columns == rf"| method | trainable parameters | {first} | {second} |".replace("#", r"\#")


def friedman_p_value(*scores: tuple[float, float]) -> float:
    """Over as many tasks as there are pairs of scores of two methods."""
    cells = [(method, f"glue/t{task}", pair["ab".index(method)]) for task, pair in enumerate(scores) for method in "ab"]
    return float(over_tasks(*cells)["friedman_p_value"].iloc[0])


def test_whether_any_methods_differ_is_friedmans_question() -> None:
    assert friedman_p_value((1.0, 2.0), (2.0, 1.0)) == 1
    # ranks 1.25 and 1.75 on 4 tasks: chi-square 12·4/6 · (4.625 - 4.5) = 1, F = 3·1/(4 - 1) = 1 with 1 and 3 degrees
    assert friedman_p_value((2.0, 1.0), (2.0, 1.0), (2.0, 1.0), (1.0, 2.0)) == pytest.approx(stats.f.sf(1, 1, 3))


def test_publishing_the_same_records_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in (0, 1):
        value = record(seed=seed, run_id=f"{seed}", settings_id="x", score=80.0 + seed / 3)
        write(store.folder(value.task, value.model, value.method, value.run_id), value)
    first = {path: path.read_bytes() for path in publish(tmp_path)}
    assert {path: path.read_bytes() for path in publish(tmp_path)} == first
    names = {str(path.relative_to(tmp_path / "leaderboard")) for path in first}
    assert names == {
        f"demonstration/{name}"
        for name in ("glue.csv", "pareto.csv", "leaderboard.md", "leaderboard.tex", "index.html")
    }


def test_a_count_is_whole_in_every_table_and_other_numbers_have_six_digits() -> None:
    table = pd.DataFrame({"value": [22_713_216.0, 1 / 3, 1234567.5, math.nan], "name": ["a", "b", "c", "d"]})
    assert as_csv(table).split() == ["value,name", "22713216,a", "0.333333,b", "1.23457e+06,c", ",d"]


def test_text_of_a_record_is_neither_a_formula_nor_markup_on_a_board(tmp_path: Path) -> None:
    hostile = {"device_name": "=HYPERLINK(1)|<script>"}
    put = record(settings_id="x", hardware=hostile, run_id="0", data_source="hub")
    write(Store(tmp_path).folder(put.task, put.model, put.method, put.run_id), put)
    publish(tmp_path)
    board = tmp_path / "leaderboard"
    assert pd.read_csv(board / "glue.csv")["hardware"].tolist() == ["'=HYPERLINK(1)|<script>"]
    assert r"=HYPERLINK(1)\|\<script>" in (board / "leaderboard.md").read_text()


def test_the_documents_show_methods_by_tasks_and_what_is_missing(tmp_path: Path) -> None:
    cells = [("lora", "glue/rte", 70.25), ("lora", "glue/sst2", 90.0), ("dora", "glue/sst2", 91.0)]
    for number, (method, task, score) in enumerate(cells):
        put = record(settings_id="x", method=method, task=task, score=score, run_id=str(number), data_source="hub")
        write(Store(tmp_path).folder(task, put.model, method, put.run_id), put)
    publish(tmp_path)
    lines = (tmp_path / "leaderboard" / "leaderboard.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("|")] == [
        "| method | trainable parameters | glue/rte | glue/sst2 |",
        "| --- | ---: | ---: | ---: |",
        "| lora | 73,728 | 70.2★ | 90.0† |",  # without predictions there is no test
        "| dora | 73,728 | – | 91.0★ |",
    ]
    paper = (tmp_path / "leaderboard" / "leaderboard.tex").read_text()
    assert r"dora & 73,728 & -- & 91.0$^\star$ \\" in paper
    assert r"\begin{longtable}{lrrr}" in paper


def test_a_mark_says_how_a_score_stands_against_the_best() -> None:
    cell = {"rank": 2, "score_mean": 90.0, "score_high": math.nan, "lost_seeds": 0}
    assert in_document(cell | {"separable_from_best": True}) == "90.0"
    assert in_document(cell | {"separable_from_best": False}) == "90.0°"
    assert in_document(cell | {"separable_from_best": pd.NA}) == "90.0†"
    assert in_document(cell | {"separable_from_best": False, "rank": 1}) == "90.0★"
    assert in_document(cell | {"separable_from_best": False, "rank": 1, "lost_seeds": 2}) == "90.0★‡"
    assert all(mark in LEGEND for mark in "★°†‡–")


def test_settings_of_one_method_have_names_that_lead_to_them() -> None:
    runs = [record(settings_id=name, score=score) for name, score in (("12345678", 80.0), ("1234abcd", 70.0))]
    rows = rows_of(runs_of([*runs, record(method="dora", settings_id="x")]))
    assert sorted(method_labels(rows)) == ["dora", "lora (12345678)", "lora (1234abcd)"]


def test_only_methods_with_the_same_tasks_are_ordered_by_their_mean() -> None:
    cells = [("a", "t0", 1.0), ("a", "t1", 1.0), ("low", "t0", 10.0), ("high", "t1", 90.0), ("b", "t0", 50.0)]
    runs = [record(method=method, task=f"glue/{task}", score=score, settings_id="x") for method, task, score in cells]
    lines = documents(rows_of(runs_of(runs)).assign(**UNTESTED), NOTHING_LOST)["leaderboard.md"].splitlines()[4:]
    assert [line.split(" | ")[0] for line in lines if line] == ["| a", "| b", "| low", "| high"]


def test_a_learning_rate_that_was_set_by_hand_is_neither_tuned_nor_a_default() -> None:
    by_hand = [record(overrides=[f"{sign}training.learning_rate=1e-3"]) for sign in ("", "++")]
    defaults = [record(overrides=[]), record(overrides=["training.max_steps=9", "method.rank=4"])]
    assert list(runs_of(by_hand + defaults)["tuning"]) == ["rate set by hand"] * 2 + ["defaults"] * 2


def test_a_rate_counts_as_the_methods_own_however_the_command_names_it() -> None:
    own = record(method_learning_rate=2e-3, settings={"training": {"learning_rate": 2e-3}})
    other = replace(own, settings={"training": {"learning_rate": 1e-3}}, overrides=["training={learning_rate: 1e-3}"])
    assert list(runs_of([own, other])["tuning"]) == ["defaults", "rate set by hand"]


def test_tuning_around_another_rate_than_the_methods_own_is_another_effort() -> None:
    tuned = record(tuning="grid", tuning_trials=6, tuning_steps=150, method_learning_rate=2e-3)
    runs = [replace(tuned, settings={"method": {"learning_rate": centre}}) for centre in (2e-3, 0.5)]
    usual = "grid, 6 trials of 150 steps"
    assert list(runs_of(runs)["tuning"]) == [usual, f"{usual}, rates around 0.5"]


def test_the_memory_to_compare_by_is_the_allocators_peak_or_the_sum_of_the_causes() -> None:
    run = record(settings_id="x", peak_memory_bytes=2000, predicted_peak_memory_bytes=300)
    assert [rows_of(runs_of([replace(run, device=device)]))["memory_bytes"][0] for device in ("cpu", "cuda")] == [
        300,
        2000,
    ]


def test_a_cost_that_the_seeds_disagree_on_has_no_front() -> None:
    def costs(*seconds: float) -> set[str]:
        runs = [record(settings_id="x", seed=seed, train_seconds=value) for seed, value in enumerate(seconds)]
        return set(pareto(rows_of(runs_of(runs)).assign(standard_error_over_examples=1.0))["cost"])

    assert costs(100.0, 105.0) == {"trainable_parameters", "train_seconds"}  # 3.4 %
    assert costs(100.0, 150.0) == {"trainable_parameters"}  # 28 %
    assert costs(100.0) == {"trainable_parameters", "train_seconds"}


def test_a_method_without_any_score_is_named_with_how_its_runs_ended(tmp_path: Path) -> None:
    kept = record(settings_id="x", data_source="hub", run_id="0")
    ended = replace(kept, method="dora", score=None, metrics={})
    endings = {0: "diverged", 1: "out_of_memory"}
    lost = [replace(ended, seed=seed, status=status, run_id=f"{seed}1") for seed, status in endings.items()]
    for run in (kept, *lost):
        write(Store(tmp_path).folder(run.task, run.model, run.method, run.run_id), run)
    publish(tmp_path, pages=False)
    board = tmp_path / "leaderboard"
    table = pd.read_csv(board / "lost.csv")
    assert table[["method", "seed_list", "endings"]].to_numpy().tolist() == [["dora", "0 1", "diverged out_of_memory"]]
    assert pd.read_csv(board / "glue.csv")["method"].tolist() == ["lora"]
    assert "| dora | – | ‡ |" in (board / "leaderboard.md").read_text().splitlines()
    write(Store(tmp_path).folder(kept.task, kept.model, "dora", "2"), replace(kept, method="dora", seed=2, run_id="2"))
    publish(tmp_path, pages=False)
    assert not (board / "lost.csv").exists()
    assert pd.read_csv(board / "glue.csv").set_index("method")["lost_seeds"].to_dict() == {"dora": 2, "lora": 0}


def test_split_weights_are_other_hardware_and_rebuilt_subsets_the_official_ones() -> None:
    runs = [settings(hardware={"split": split}) for split in (False, True)]
    first, second = runs_of(runs)["group"]
    assert first != second
    subsets = runs_of([record(data_subset=kind) for kind in ("official", "rebuilt", "resampled 0123")])["data_subset"]
    assert list(subsets) == ["official", "official", "resampled"]


def test_a_row_has_a_learning_rate_where_its_seeds_share_one() -> None:
    def rates(*found: float) -> float:
        runs = [replace(settings(training={"learning_rate": rate}), seed=seed) for seed, rate in enumerate(found)]
        return float(rows_of(runs_of(runs))["learning_rate"].iloc[0])

    assert rates(1e-3, 1e-3) == 1e-3
    assert math.isnan(rates(1e-3, 1e-2))


def test_free_text_is_no_markup_in_a_document() -> None:
    rows = rows_of(runs_of([record(settings_id="x", hardware={"device_name": "*a_b* [x](y) !# ~ ^ \n\n{&}"})]))
    found = documents(rows.assign(**UNTESTED), NOTHING_LOST)
    assert r"\*a\_b\* \[x\](y) \!\# \~ ^ {&}" in found["leaderboard.md"]
    assert r"*a\_b* [x](y) !\# \textasciitilde{} \textasciicircum{} \{\&\}" in found["leaderboard.tex"]


def test_no_records_give_no_tables(tmp_path: Path) -> None:
    assert publish(tmp_path) == []


def test_a_benchmarks_average_is_its_own_and_missing_while_a_task_is() -> None:
    glue = [record(settings_id="x", task=f"glue/{task}", score=80.0, metrics={}) for task in GLUE_EIGHT]
    mrpc = record(settings_id="x", task="glue/mrpc", score=88.0, metrics={"accuracy": 0.88, "combined_score": 0.9})
    rows = [run for run in glue if run.task != "glue/mrpc"] + [mrpc]
    table = averages(rows_of(runs_of(rows)))
    assert table["glue_average"].tolist() == [81.0]
    assert table["glue_average_official"].isna().all(), "WNLI is missing"
    wnli = record(settings_id="x", task="glue/wnli", score=80.0, metrics={})
    assert averages(rows_of(runs_of([*rows, wnli])))["glue_average_official"].tolist() == [
        pytest.approx((8 * 80 + 90) / 9)
    ]


def test_subsets_of_one_task_are_never_averaged_together() -> None:
    runs = [record(settings_id="x", task="vtab/dtd", data_subset=kind) for kind in ("official", "resampled 0123")]
    assert sorted(rows_of(runs_of(runs))["data_subset"]) == ["official", "resampled"]


def test_rates_from_another_span_are_another_effort() -> None:
    assert TuningSettings.span == USUAL_SPAN
    tuned = {"tuning": "grid", "tuning_trials": 5, "tuning_steps": 150}
    runs = [record(**tuned, settings_id="x", settings={"tuning": {"span": span}}) for span in (10.0, 1000.0)]
    efforts = ["grid, 5 trials of 150 steps", "grid, 5 trials of 150 steps, rates over a span of 1000"]
    assert sorted(rows_of(runs_of(runs))["tuning"]) == efforts


def test_superglue_needs_all_eight() -> None:
    runs = [record(settings_id="x", task=f"superglue/{task}", score=70.0, metrics={}) for task in SUPERGLUE_EIGHT]
    assert averages(rows_of(runs_of(runs)))["superglue_average"].tolist() == [70.0]
    assert len(averages(rows_of(runs_of(runs[1:])))) == 0
