"""GLUE's metrics against hand-worked values and the benchmark's edge cases."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from tasks.metrics.glue import GlueMetric, glue_metrics


def compute(config: str, predictions: object, references: object) -> dict[str, float | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric = GlueMetric(config_name=config, keep_in_memory=True)
        return metric.compute(predictions=np.array(predictions), references=np.array(references))  # type: ignore[return-value]


@pytest.mark.parametrize("config", ["sst2", "mnli", "qnli", "rte", "wnli"])
def test_accuracy_is_the_share_of_equal_labels(config: str) -> None:
    assert compute(config, [0, 1, 1, 0, 1], [0, 1, 0, 0, 1]) == {"accuracy": 0.8}


@pytest.mark.parametrize("config", ["mrpc", "qqp"])
def test_f1_is_that_of_class_1_alone(config: str) -> None:
    # TP 2, FP 1, FN 1, TN 1
    result = compute(config, [1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert result == {"accuracy": 0.6, "f1": pytest.approx(4 / 6), "combined_score": pytest.approx((0.6 + 4 / 6) / 2)}


def test_always_equivalent_on_mrpcs_validation_counts() -> None:
    result = compute("mrpc", [1] * 408, [0] * 129 + [1] * 279)
    assert result["accuracy"] == pytest.approx(0.68382, abs=1e-5)
    assert result["f1"] == pytest.approx(0.81223, abs=1e-5)


@pytest.mark.parametrize(("predictions", "references"), [([0, 0, 0], [0, 1, 1]), ([0, 0, 0], [0, 0, 0])])
def test_f1_without_a_true_positive_is_zero_and_quiet(predictions: list[int], references: list[int]) -> None:
    assert compute("mrpc", predictions, references)["f1"] == 0.0


def test_matthews_correlation_by_hand() -> None:
    # TP 2, TN 1, FP 1, FN 1: (2*1 - 1*1) / sqrt(3*3*2*2) = 1/6
    assert compute("cola", [1, 1, 1, 0, 0], [1, 1, 0, 1, 0])["matthews_correlation"] == pytest.approx(1 / 6)


def test_matthews_correlation_at_its_ends() -> None:
    assert compute("cola", [1, 1, 1, 1], [0, 1, 1, 0])["matthews_correlation"] == 0.0
    assert compute("cola", [0, 1, 1, 0], [0, 1, 1, 0])["matthews_correlation"] == 1.0
    assert compute("cola", [1, 0, 0, 1], [0, 1, 1, 0])["matthews_correlation"] == -1.0


@pytest.mark.parametrize(("slope", "offset", "expected"), [(1, 0, 1.0), (-1, 0, -1.0), (2, 3, 1.0)])
def test_correlations_ignore_scale_and_nothing_is_clipped(slope: float, offset: float, expected: float) -> None:
    gold = np.array([0.0, 1.5, 3.0, 4.2, 5.0], np.float32)
    result = compute("stsb", slope * gold + offset, gold)
    assert result["pearson"] == pytest.approx(expected)
    assert result["spearmanr"] == pytest.approx(expected)


def test_spearman_averages_the_ranks_of_ties() -> None:
    assert compute("stsb", [1, 1, 2, 3], [1, 2, 2, 4])["spearmanr"] == pytest.approx(0.8333, abs=1e-4)


def test_correlation_of_constant_predictions_is_null_and_never_nan() -> None:
    result = compute("stsb", [2.5, 2.5, 2.5], [1.0, 2.0, 3.0])
    assert result == {"pearson": None, "spearmanr": None, "combined_score": None}
    json.dumps(result, allow_nan=False)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        glue_metrics("sst2", np.array([]), np.array([]))


def test_metrics_do_not_depend_on_the_order_of_rows() -> None:
    random = np.random.default_rng(0)
    predictions, gold = random.normal(size=50), random.normal(size=50)
    order = random.permutation(50)
    assert glue_metrics("stsb", predictions, gold)["pearson"] == pytest.approx(
        glue_metrics("stsb", predictions[order], gold[order])["pearson"]
    )
