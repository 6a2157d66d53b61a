"""SuperGLUE's metrics and the averages of GLUE and SuperGLUE against hand-worked and published values."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tasks.metrics.averages import glue_average, glue_average_official, superglue_average
from tasks.metrics.superglue import (
    SuperGlueMetric,
    best_entities,
    multirc_metrics,
    normalise_answer,
    record_metrics,
    superglue_metrics,
    token_f1,
)

# LoRA's table: RoBERTa-base and DeBERTa-XXL
ROBERTA = {
    "mnli": 87.5, "sst2": 95.1, "mrpc": 89.7, "cola": 63.4, "qnli": 93.3, "qqp": 90.8, "rte": 86.6, "stsb": 91.5,
}  # fmt: skip
DEBERTA = {
    "mnli": 91.9, "sst2": 96.9, "mrpc": 92.6, "cola": 72.4, "qnli": 96.0, "qqp": 92.9, "rte": 94.9, "stsb": 93.0,
}  # fmt: skip


def compute(config: str, predictions: object, references: object) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric = SuperGlueMetric(config_name=config, keep_in_memory=True)
        return metric.compute(predictions=np.array(predictions), references=np.array(references))  # type: ignore[return-value]


def multirc(predictions: list[int], labels: list[int], questions: list[int]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return multirc_metrics(np.array(predictions), np.array(labels), np.array(questions))


class TestClassification:
    @pytest.mark.parametrize("config", ["boolq", "copa", "rte", "wic", "wsc", "wsc.fixed"])
    def test_accuracy_is_the_share_of_equal_labels(self, config: str) -> None:
        assert compute(config, [0, 1, 1, 0, 1], [0, 1, 0, 0, 1]) == {"accuracy": 0.8}

    @pytest.mark.parametrize(
        ("config", "false", "true", "floor"),
        [("boolq", 1237, 2033, 0.622), ("copa", 55, 45, 0.45), ("wic", 319, 319, 0.5), ("wsc", 66, 38, 0.365)],
    )
    def test_always_true_on_the_validation_counts(self, config: str, false: int, true: int, floor: float) -> None:
        accuracy = compute(config, [1] * (false + true), [0] * false + [1] * true)["accuracy"]
        assert accuracy == pytest.approx(floor, abs=5e-4)

    def test_an_unknown_config_is_named(self) -> None:
        with pytest.raises(KeyError, match="multirc"):
            SuperGlueMetric(config_name="multirc")

    @pytest.mark.parametrize("config", ["boolq", "cb", "axb", "axg"])
    def test_hidden_labels_and_empty_sets_are_refused(self, config: str) -> None:
        with pytest.raises(ValueError, match="hidden"):
            superglue_metrics(config, np.array([0, 1]), np.array([-1, -1]))
        with pytest.raises(ValueError, match="empty"):
            superglue_metrics(config, np.array([]), np.array([]))


class TestCommitmentBank:
    def test_always_contradiction_on_the_validation_counts(self) -> None:
        # F1 of contradiction alone: 2 * 28 / (56 + 28) = 2/3, a third of it is the mean
        result = compute("cb", [1] * 56, [0] * 23 + [1] * 28 + [2] * 5)
        assert result == pytest.approx({"accuracy": 0.5, "f1": 2 / 9, "combined_score": (0.5 + 2 / 9) / 2})

    def test_f1_divides_by_three_classes_also_where_one_does_not_occur(self) -> None:
        # entailment: P 1, R 1/2; contradiction: P 1/2, R 1; neutral: 0
        assert compute("cb", [0, 1, 1], [0, 0, 1])["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)

    def test_an_invalid_prediction_adds_no_fourth_class(self) -> None:
        assert compute("cb", [0, 1, -1, 0], [0, 1, 2, 0])["f1"] == pytest.approx((1 + 1 + 0) / 3)


class TestDiagnostics:
    def test_matthews_correlation_by_hand(self) -> None:
        # TP 2, TN 1, FP 1, FN 1: (2*1 - 1*1) / sqrt(3*3*2*2) = 1/6
        result = compute("axb", [1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
        assert result == pytest.approx({"matthews_correlation": 1 / 6, "accuracy": 0.6})

    def test_a_constant_has_no_correlation(self) -> None:
        assert compute("axb", [0] * 1104, [0] * 460 + [1] * 644)["matthews_correlation"] == 0.0

    def test_an_invalid_prediction_is_the_wrong_class(self) -> None:
        assert compute("axb", [0, 1, -1, 0], [0, 1, 1, 0]) == compute("axb", [0, 1, 0, 0], [0, 1, 1, 0])

    def test_parity_is_the_share_of_neighbours_with_equal_predictions(self) -> None:
        result = compute("axg", [0, 0, 1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1, 1])
        assert result == {"accuracy": 4 / 8, "gender_parity": 2 / 4}

    def test_a_constant_has_full_parity(self) -> None:
        assert compute("axg", [0] * 356, [0] * 178 + [1] * 178) == {"accuracy": 0.5, "gender_parity": 1.0}

    @pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 1, 0]])
    def test_rows_that_are_not_in_pairs_are_refused(self, labels: list[int]) -> None:
        with pytest.raises(ValueError, match="pairs"):
            superglue_metrics("axg", np.zeros(len(labels)), np.array(labels))


class TestMultiRC:
    def test_worked_example(self) -> None:
        # question 7 right, question 9 half right; over options TP 2, FP 0, FN 1
        result = multirc([1, 0, 1, 0], [1, 0, 1, 1], [7, 7, 9, 9])
        assert result == pytest.approx({"exact_match": 0.5, "f1_a": 0.8, "combined_score": 0.65})

    def test_the_order_of_rows_does_not_matter(self) -> None:
        random = np.random.default_rng(0)
        rows = random.integers(0, 2, 60), random.integers(0, 2, 60), random.integers(0, 15, 60)
        order = random.permutation(60)
        assert multirc_metrics(*rows) == multirc_metrics(*(column[order] for column in rows))

    def test_constants_on_the_validation_counts(self) -> None:
        """953 questions with 2075 true and 2773 false options; 8 have true options only, 3 false ones only."""
        questions = np.concatenate([np.arange(16) // 2, 8 + np.arange(2059) % 942, 8 + np.arange(2773) % 945])
        labels = np.repeat([1, 0], [2075, 2773])
        assert len(np.unique(questions)) == 953
        all_true = multirc_metrics(np.ones_like(labels), labels, questions)
        all_false = multirc_metrics(np.zeros_like(labels), labels, questions)
        assert all_true["f1_a"] == pytest.approx(0.5995, abs=1e-4)
        assert all_true["exact_match"] == pytest.approx(0.0084, abs=1e-4)
        assert all_false["f1_a"] == 0.0
        assert all_false["exact_match"] == pytest.approx(0.0031, abs=1e-4)

    def test_without_any_positive_f1_is_zero_and_quiet(self) -> None:
        assert multirc([0, 0], [0, 0], [1, 1]) == {"exact_match": 1.0, "f1_a": 0.0, "combined_score": 0.5}

    def test_an_invalid_prediction_is_the_wrong_class(self) -> None:
        assert multirc([1, -1, -1], [1, 0, 1], [0, 0, 1]) == multirc([1, 1, 0], [1, 0, 1], [0, 0, 1])

    def test_hidden_labels_empty_sets_and_unequal_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match="hidden"):
            multirc([0, 1], [-1, -1], [0, 0])
        with pytest.raises(ValueError, match="empty"):
            multirc([], [], [])
        with pytest.raises(ValueError, match="1 question ids"):
            multirc([0, 1], [0, 1], [0])


class TestReCoRD:
    @pytest.mark.parametrize(
        ("text", "normalised"),
        [
            ("The U.S.", "us"),
            ("Jean-Luc  Picard", "jeanluc picard"),
            ("a theatre by an anthem", "theatre by anthem"),
            ("“the” end", "“ ” end"),
            ("the", ""),
        ],
    )
    def test_normalisation(self, text: str, normalised: str) -> None:
        assert normalise_answer(text) == normalised

    @pytest.mark.parametrize(
        ("prediction", "gold", "f1"),
        [
            ("The U.S.", "us", 1.0),
            ("Jean-Luc Picard", "Jean Luc Picard", 0.4),
            ("Bob's hat", "bob hat", 0.5),
            ("New York", "New York City", 0.8),
            ("a a b b", "b b b", 0.8),  # "a" is an article: 2 common of 2 and 3 words
            ("the", "a", 0.0),
        ],
    )
    def test_token_f1(self, prediction: str, gold: str, f1: float) -> None:
        assert token_f1(prediction, gold) == pytest.approx(f1)

    def test_the_best_gold_answer_counts_and_an_unanswered_query_halves_the_score(self) -> None:
        golds = {(0, 1): ["Bob", "Bob Dylan"]}
        answered = record_metrics({(0, 1): "Dylan"}, golds)
        assert answered == pytest.approx({"exact_match": 0, "f1": 2 / 3, "combined_score": 1 / 3})
        halved = record_metrics({(0, 1): "Dylan"}, golds | {(0, 2): ["Joan Baez"]})
        assert halved == pytest.approx({"exact_match": 0, "f1": 1 / 3, "combined_score": 1 / 6})

    def test_two_empty_answers_match_exactly_but_share_no_word(self) -> None:
        assert record_metrics({0: "the"}, {0: ["a"]}) == {"exact_match": 1.0, "f1": 0.0, "combined_score": 0.5}

    def test_without_gold_answers_nothing_is_scored(self) -> None:
        with pytest.raises(ValueError, match="query 3 has no gold answers"):
            record_metrics({2: "Bob", 3: "Bob"}, {2: ["Bob"], 3: []})
        with pytest.raises(ValueError, match="empty"):
            record_metrics({}, {})

    def test_the_best_entity_has_the_highest_score_and_ties_go_to_the_first_string(self) -> None:
        rows = [(0.5, 0, "Rome"), (2.0, 0, "Oslo"), (2.0, 0, "Bern"), (-1.0, 1, "Rome"), (-3.0, 1, "Bern")]
        for order in (rows, rows[::-1], [rows[i] for i in (3, 1, 4, 0, 2)]):
            assert best_entities(*zip(*order, strict=True)) == {0: "Bern", 1: "Rome"}

    def test_a_score_that_is_no_number_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'Rome' for query 0 is nan"):
            best_entities([float("nan")], [0], ["Rome"])


class TestAverages:
    @pytest.mark.parametrize(("scores", "printed"), [(ROBERTA, 87.24), (DEBERTA, 91.32)])
    def test_glue_over_eight_tasks_is_that_of_loras_table(self, scores: dict[str, float], printed: float) -> None:
        assert glue_average(scores) == pytest.approx(printed, abs=0.0051)
        assert glue_average(scores | {"wnli": 0.0}) == glue_average(scores)

    def test_the_official_glue_score_is_that_of_a_leaderboard_row(self) -> None:
        cells = {"cola": 71.6, "sst2": 97.5, "mrpc": (92.8 + 90.4) / 2, "stsb": (93.1 + 92.8) / 2}
        cells |= {"qqp": (75.1 + 90.6) / 2, "mnli": (92.2 + 91.9) / 2, "qnli": 96.9, "rte": 92.8, "wnli": 94.5}
        assert glue_average_official(cells) == pytest.approx(90.3, abs=0.05)

    def test_superglue_is_the_mean_of_eight_headlines(self) -> None:
        names = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
        scores = dict(zip(names, [80, 90, 70, 60, 50, 75, 65, 62], strict=True))
        assert superglue_average(scores | {"axb": 30, "axg": 95}) == 69

    def test_no_average_exists_while_a_task_is_missing(self) -> None:
        without_rte = {task: score for task, score in ROBERTA.items() if task != "rte"}
        assert glue_average(without_rte) is None
        assert glue_average_official(ROBERTA) is None
        assert superglue_average(ROBERTA) is None
