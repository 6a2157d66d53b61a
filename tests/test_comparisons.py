"""Paired comparisons of rows: metrics as statistics of means, shared seeds and examples, what can be told apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from bench.leaderboard.boards import Boards, Sources
from bench.leaderboard.comparisons import Runs, compared
from bench.leaderboard.rows import WITHOUT_SCORE
from bench.records.record import RunRecord
from bench.stats.outcomes import METRICS, PREDICTIONS_FILE, Metric, Outcomes, metric_of, outcomes
from scripts.publish_board import block
from tasks.metrics.superglue import multirc_metrics, superglue_metrics
from tests.conftest import runs_of
from tests.test_record import record

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 200)


def written(folder: Path, labels: Any, predictions: Any, split: str = "validation", **columns: Any) -> Path:
    """A run's predictions on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {"split": split, "id": np.arange(len(labels)), "label": labels, "prediction": predictions, **columns}
    pd.DataFrame(table).to_parquet(folder / PREDICTIONS_FILE)
    return folder


def in_folder(folder: Path, name: str) -> tuple[Metric, Outcomes]:
    """The metric of a name, or of a task, and what the run in this folder did."""
    metric = metric_of(name, name)
    assert metric is not None
    found = outcomes(folder, metric)
    assert found is not None
    return metric, found


def standard_error(folder: Path, name: str) -> float | None:
    """That of the run in this folder, as a fraction."""
    metric, found = in_folder(folder, name)
    return metric.standard_error(found.values[None])


def with_errors(share: float, seed: int = 0) -> Any:
    """The labels, each flipped with this probability."""
    return np.where(np.random.default_rng(seed).random(len(LABELS)) < share, 1 - LABELS, LABELS)


def value(name: str, folder: Path) -> float:
    """The metric of a name, or of a task, as it follows from a run's predictions."""
    metric, found = in_folder(folder, name)
    return float(metric.of_means(found.values.mean(axis=0)))


class TestMetrics:
    def test_classes(self, tmp_path: Path) -> None:
        found = with_errors(0.3)
        folder = written(tmp_path, LABELS, found)
        assert value("accuracy", folder) == pytest.approx(np.mean(found == LABELS))
        assert value("f1", folder) == pytest.approx(f1_score(LABELS, found))
        assert value("matthews_correlation", folder) == pytest.approx(matthews_corrcoef(LABELS, found))

    def test_correlation(self, tmp_path: Path) -> None:
        labels = RANDOM.random(50) * 5
        found = labels + RANDOM.normal(size=50)
        assert value("pearson", written(tmp_path, labels, found)) == pytest.approx(stats.pearsonr(labels, found)[0])

    @pytest.mark.parametrize("classes", [3, 2])
    def test_cb_is_the_mean_of_accuracy_and_macro_f1_over_its_three_classes(self, tmp_path: Path, classes: int) -> None:
        labels, found = RANDOM.integers(0, classes, (2, 60))
        expected = superglue_metrics("cb", found, labels)["combined_score"]
        assert value("superglue/cb", written(tmp_path, labels, found)) == pytest.approx(expected)

    def test_multirc_counts_questions_as_a_whole(self, tmp_path: Path) -> None:
        questions = RANDOM.integers(0, 40, len(LABELS))
        found = with_errors(0.1)
        found[7] = -1  # no class at all
        expected = multirc_metrics(found, LABELS, questions)["combined_score"]
        folder = written(tmp_path, LABELS, found, question=questions)
        assert value("superglue/multirc", folder) == pytest.approx(expected)

    def test_record_adds_up_what_a_query_is_credited_with(self, tmp_path: Path) -> None:
        queries, credit = np.array([7, 7, 3, 7, 3]), np.array([0, 0.25, 0, 0, 1])
        folder = written(tmp_path, LABELS[:5], LABELS[:5], query=queries, credit=credit)
        assert value("superglue/record", folder) == pytest.approx((0.25 + 1) / 2)

    def test_mnli_counts_the_matched_half(self, tmp_path: Path) -> None:
        split = np.repeat(["validation_matched", "validation_mismatched"], 100)
        found = np.where(split == "validation_matched", LABELS, 1 - LABELS)
        assert value("accuracy_matched", written(tmp_path, LABELS, found, split)) == 1

    def test_diagnostics_do_not_count(self, tmp_path: Path) -> None:
        split = np.repeat(["validation", "axb/test"], 100)
        found = np.where(split == "validation", LABELS, 1 - LABELS)
        assert value("accuracy", written(tmp_path, LABELS, found, split)) == 1

    def test_generated_answers_are_right_as_the_run_said(self, tmp_path: Path) -> None:
        folder = written(tmp_path, ["5"] * 4, ["5", "6", "5", "5"], correct_strict=[True, False, True, True])
        assert value("exact_match_strict", folder) == 0.75

    def test_a_run_without_predictions_has_no_outcomes(self, tmp_path: Path) -> None:
        assert outcomes(tmp_path, METRICS["accuracy"]) is None


class TestAnswersAlike:
    def test_one_class_for_every_example_is_alike(self, tmp_path: Path) -> None:
        assert in_folder(written(tmp_path, [0, 1, 1, 1], [1, 1, 1, 1]), "accuracy")[1].answers_alike
        assert not in_folder(written(tmp_path, [0, 1, 1, 1], [1, 1, 0, 1]), "accuracy")[1].answers_alike

    def test_answers_that_a_metric_does_not_look_at_are_not(self, tmp_path: Path) -> None:
        folder = written(tmp_path, ["5"] * 2, ["6"] * 2, correct_strict=[False, False])
        assert not in_folder(folder, "exact_match_strict")[1].answers_alike


class TestStandardError:
    def test_that_of_accuracy_is_the_binomial_one(self, tmp_path: Path) -> None:
        found = with_errors(0.3)
        share = np.mean(found == LABELS)
        error = standard_error(written(tmp_path, LABELS, found), "accuracy")
        assert error == pytest.approx((share * (1 - share) / len(LABELS)) ** 0.5, rel=0.05)

    def test_that_of_a_correlation_is_near_fishers(self, tmp_path: Path) -> None:
        labels = RANDOM.normal(size=400)
        found = 0.8 * labels + 0.6 * RANDOM.normal(size=400)
        error = standard_error(written(tmp_path, labels, found), "pearson")
        assert error == pytest.approx((1 - 0.8**2) / 400**0.5, rel=0.3)

    def test_there_is_none_where_the_metric_is_undefined(self, tmp_path: Path) -> None:
        labels = np.arange(10.0)
        assert standard_error(written(tmp_path, labels, np.zeros(10)), "pearson") is None


def runs(folder: Path, *shares: float, first_seed: int = 0, metric: str = "accuracy") -> Runs:
    """Runs with these shares of errors, seed by seed."""
    seeds = range(first_seed, first_seed + len(shares))
    folders = {
        seed: written(folder / str(seed), LABELS, with_errors(share, seed))
        for seed, share in zip(seeds, shares, strict=True)
    }
    return Runs(METRICS.get(metric), folders)


class TestPairs:
    def test_one_seed_is_mcnemars_test(self, tmp_path: Path) -> None:
        a, b = runs(tmp_path / "a", 0.1), runs(tmp_path / "b", 0.4)
        comparison = compared(a, b)
        assert comparison is not None
        right_a, right_b = (with_errors(share, 0) == LABELS for share in (0.1, 0.4))
        only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
        assert comparison.test == "McNemar"
        assert comparison.p_value == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
        assert comparison.difference == pytest.approx(100 * (right_a.mean() - right_b.mean()))
        assert comparison.difference_low < comparison.difference < comparison.difference_high

    def test_only_seeds_that_both_have_are_compared(self, tmp_path: Path) -> None:
        a, b = runs(tmp_path / "a", 0.1, 0.1, 0.1), runs(tmp_path / "b", 0.1, 0.1, first_seed=2)
        comparison = compared(a, b)
        assert comparison is not None
        assert (comparison.seeds, comparison.difference, comparison.p_value) == (1, 0, 1)
        assert compared(runs(tmp_path / "c", 0.1), runs(tmp_path / "d", 0.1, first_seed=1)) is None

    def test_other_examples_are_not_compared(self, tmp_path: Path) -> None:
        a = runs(tmp_path / "a", 0.1)
        written(tmp_path / "b" / "0", LABELS[:100], LABELS[:100])
        assert compared(a, Runs(METRICS["accuracy"], {0: tmp_path / "b" / "0"})) is None

    def test_a_metric_without_a_paired_test_is_not_compared(self, tmp_path: Path) -> None:
        a = runs(tmp_path / "a", 0.1, metric="combined_score")
        assert compared(a, a) is None
        assert a.standard_error is None

    def test_questions_are_what_multirc_is_tested_over(self, tmp_path: Path) -> None:
        metric = metric_of("superglue/multirc", "combined_score")
        questions = np.arange(len(LABELS)) // 5
        a, b = (
            Runs(metric, {0: written(tmp_path / str(share), LABELS, with_errors(share), question=questions)})
            for share in (0.02, 0.4)
        )
        found = compared(a, b)
        assert found is not None
        assert (found.test, found.examples) == ("paired bootstrap", 40)
        assert found.difference > 30
        assert found.p_value < 0.01

    def test_a_correlation_with_a_constant_is_0_for_classes_and_undefined_for_numbers(self, tmp_path: Path) -> None:
        written(tmp_path / "b" / "0", LABELS, np.zeros_like(LABELS))
        for metric, difference in (("matthews_correlation", True), ("pearson", False)):
            a = runs(tmp_path / metric, 0.1, metric=metric)
            found = compared(a, Runs(METRICS[metric], {0: tmp_path / "b" / "0"}))
            assert (found is not None) == difference
            if found is not None:
                assert found.difference == pytest.approx(100 * value(metric, tmp_path / metric / "0"))

    def test_the_standard_error_of_one_run_is_binomial(self, tmp_path: Path) -> None:
        share = float(np.mean(with_errors(0.2) == LABELS))
        expected = 100 * math.sqrt(share * (1 - share) / (len(LABELS) - 1))
        assert runs(tmp_path / "a", 0.2).standard_error == pytest.approx(expected)

    def test_the_standard_error_of_a_correlation_is_that_of_the_mean_over_seeds(self, tmp_path: Path) -> None:
        """Two seeds that predict the same are no better known than one; two independent ones are, by √2."""
        labels = RANDOM.normal(size=(2, 400))

        def error(*noises: Any) -> float:
            folders = {
                seed: written(tmp_path / str(id(noises)) / str(seed), labels[0], labels[0] + noise)
                for seed, noise in enumerate(noises)
            }
            found = Runs(METRICS["pearson"], folders).standard_error
            assert found is not None
            return found

        noise, other = 4 * RANDOM.normal(size=(2, 400))
        assert error(noise, noise) == pytest.approx(error(noise))
        assert error(noise, other) == pytest.approx(error(noise) / 2**0.5, rel=0.15)


class TestBoards:
    @pytest.fixture
    def sources(self, tmp_path: Path) -> Sources:
        """Two methods that differ in one answer of 200, and two that are clearly worse."""
        almost = LABELS.copy()
        almost[0] = 1 - almost[0]
        answers = {"dora": LABELS, "lora": almost, "ia3": with_errors(0.4), "full": with_errors(0.3)}
        found: list[RunRecord] = []
        for number, (method, predictions) in enumerate(answers.items()):
            score = 100 * float(np.mean(predictions == LABELS))
            found.append(record(method=method, settings_id="x", run_id=f"{number:016x}", score=score))
            written(tmp_path / f"glue/sst2/minilm/{method}/{number:016x}", LABELS, predictions)
        return Sources(runs_of(found), runs_of([]), tmp_path)

    @pytest.fixture
    def boards(self, sources: Sources) -> Boards:
        return Boards.of(sources)

    def test_what_cannot_be_told_from_the_best_is_marked(self, boards: Boards) -> None:
        separable = boards.rows.set_index("method")["separable_from_best"]
        assert separable.to_dict() == {"dora": False, "lora": False, "ia3": True, "full": True}

    def test_every_other_row_is_compared_with_the_best_and_with_both_references(self, boards: Boards) -> None:
        families = boards.comparisons.groupby("against")["method"].agg(set).to_dict()
        assert families == {
            "best": {"lora", "ia3", "full"},
            "lora": {"dora", "ia3", "full"},
            "full": {"dora", "lora", "ia3"},
        }
        assert (boards.comparisons["p_value_holm"] >= boards.comparisons["p_value"]).all()

    def test_the_cheapest_within_one_standard_error_need_not_be_the_best(self, tmp_path: Path) -> None:
        """The best has an accuracy of 0.9: a standard error of √(0.09 / 199), 2.1 points; its neighbour lacks 2."""
        found = []
        for number, (errors, size) in enumerate([(20, 900), (24, 500), (60, 100), (30, 9000)]):
            predictions = np.concatenate([1 - LABELS[:errors], LABELS[errors:]])
            score = 100 * (1 - errors / len(LABELS))
            run = record(method=f"m{number}", settings_id="x", run_id=str(number), score=score)
            found.append(replace(run, trainable_parameters=size, predicted_peak_memory_bytes=size))
            written(tmp_path / f"glue/sst2/minilm/m{number}/{number}", LABELS, predictions)
        front = Boards.of(Sources(runs_of(found), runs_of([]), tmp_path)).pareto
        assert set(front["cost"]) == {"trainable_parameters", "memory_bytes", "train_seconds"}
        front = front[front["cost"] == "trainable_parameters"]
        assert list(front["method"][front["cheapest_within_one_standard_error"]]) == ["m1"]
        assert list(front["method"][front["on_front"]]) == ["m2", "m1", "m0"]

    def test_the_readmes_block_says_what_is_told_apart_and_what_has_no_score(self, boards: Boards) -> None:
        lost = boards.rows[boards.rows["method"] == "lora"].assign(method="vera", endings="diverged")
        text = block(replace(boards, lost=lost[WITHOUT_SCORE]))
        assert "tells 2 of the other 3 from the best" in text
        assert "No run of `vera` ended with a score." in text

    def test_rows_without_predictions_are_neither_alike_nor_different(self, sources: Sources, tmp_path: Path) -> None:
        elsewhere = Boards.of(replace(sources, root=tmp_path / "nowhere"))
        assert elsewhere.rows["separable_from_best"].isna().all()
        assert len(elsewhere.comparisons) == 0

    def test_many_methods_far_below_the_best_are_all_told_from_it_by_a_bootstrap(self, tmp_path: Path) -> None:
        found = []
        for number in range(21):
            method = f"method{number:02}"
            predictions = LABELS if number == 0 else with_errors(0.4, number)
            score = 100 * float(f1_score(LABELS, predictions))
            found.append(record(method=method, settings_id="x", run_id=f"{number:016x}", score=score, metric="f1"))
            written(tmp_path / f"glue/sst2/minilm/{method}/{number:016x}", LABELS, predictions)
        rows = Boards.of(Sources(runs_of(found), runs_of([]), tmp_path)).rows.set_index("method")
        assert not rows["separable_from_best"]["method00"]
        assert rows["separable_from_best"].sum() == 20

    def test_a_row_above_the_best_on_the_shared_seeds_is_not_told_from_it(self, tmp_path: Path) -> None:
        cells = [("lora", 0, 0.4), ("lora", 1, 0.0), ("dora", 0, 0.25)]
        found = []
        for number, (method, seed, errors) in enumerate(cells):
            predictions = with_errors(errors)
            score = 100 * float(np.mean(predictions == LABELS))
            found.append(record(method=method, seed=seed, settings_id="x", run_id=f"{number:016x}", score=score))
            written(tmp_path / f"glue/sst2/minilm/{method}/{number:016x}", LABELS, predictions)
        boards = Boards.of(Sources(runs_of(found), runs_of([]), tmp_path))
        against_best = boards.comparisons[boards.comparisons["against"] == "best"].iloc[0]
        assert boards.rows["method"].tolist() == ["lora", "dora"]
        assert against_best["difference"] > 0
        assert against_best["p_value"] < 0.01
        assert not boards.rows["separable_from_best"].any()

    def test_of_two_runs_of_one_seed_the_last_is_tested(self, tmp_path: Path) -> None:
        cells = [("dora", 0.0, None), ("lora", 0.4, "2026-01-01T00:00:00"), ("lora", 0.0, "2026-01-02T00:00:00")]
        found = []
        for number, (method, errors, finished_at) in enumerate(cells):
            run_id = f"{9 - number:016x}"
            found.append(record(method=method, settings_id="x", run_id=run_id, finished_at=finished_at))
            written(tmp_path / f"glue/sst2/minilm/{method}/{run_id}", LABELS, with_errors(errors))
        boards = Boards.of(Sources(runs_of(found), runs_of([]), tmp_path))
        assert boards.comparisons["difference"].tolist() == [0.0] * len(boards.comparisons)
        assert boards.rows["seeds"].tolist() == [1, 1]
