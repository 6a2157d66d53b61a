"""Intervals and paired tests against published tables, hand-worked values and exhaustive enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import f1_score, matthews_corrcoef

from bench.stats import resampling
from bench.stats.intervals import Interval, percentile_interval, standard_error_over_examples
from bench.stats.paired import (
    PairedDifference,
    holm,
    level_against_best,
    mcnemar,
    paired_bootstrap_of_means,
    paired_mean_bootstrap,
)
from bench.stats.resampling import resampled_means


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def accuracy(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(np.mean(predictions == labels))


def test_one_example_has_no_standard_error() -> None:
    assert standard_error_over_examples([1.0]) is None


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile_interval(np.array([1.0, 2.0]), confidence)


def test_the_standard_error_of_an_accuracy_is_the_binomial_one() -> None:
    right = np.repeat([1, 0], [101 * 80 // 100, 101 - 101 * 80 // 100])  # 80 of 101
    assert standard_error_over_examples(right) == pytest.approx((80 / 101 * 21 / 101 / 100) ** 0.5)


def test_repeating_a_run_adds_no_certainty() -> None:
    values = generator().random(200)
    assert standard_error_over_examples([values] * 5) == pytest.approx(standard_error_over_examples(values))


def test_averaging_runs_with_errors_of_their_own_does() -> None:
    values = generator().random((4, 20_000))
    assert standard_error_over_examples(values) == pytest.approx((1 / 12 / 4 / 20_000) ** 0.5, rel=0.02)


def test_resampled_means_have_the_distribution_of_all_resamples() -> None:
    values = np.array([0.0, 1.0, 1.0, 5.0])
    exact = np.array([values[list(draw)].mean() for draw in product(range(4), repeat=4)])
    found = resampled_means(values[:, None], 40_000, generator())[:, 0]
    for mean in np.unique(exact):
        assert np.mean(found == mean) == pytest.approx(np.mean(exact == mean), abs=0.01)


def test_columns_are_resampled_together() -> None:
    values = generator().normal(size=(30, 1))
    first, second = resampled_means(np.hstack([values, 2 * values + 1]), 500, generator()).T
    assert second == pytest.approx(2 * first + 1)


def test_resamples_depend_neither_on_the_size_of_the_pieces_nor_on_the_order_of_the_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = generator().normal(size=(50, 2))
    whole = resampled_means(values, 300, generator(1))
    assert np.array_equal(resampled_means(values[::-1], 300, generator(1)), whole)
    monkeypatch.setattr(resampling, "CELLS", 7 * 50)
    assert resampled_means(values, 300, generator(1)) == pytest.approx(whole)
    assert list(resampling.pieces(10, 100)) == [3, 3, 3, 1]


def test_the_bootstrap_interval_of_a_mean_is_near_the_normal_one_and_repeatable() -> None:
    values = generator().normal(10, 2, size=400)
    found = paired_mean_bootstrap(values, np.zeros(400), generator(1))
    assert found == paired_mean_bootstrap(values, np.zeros(400), generator(1))
    low, high = values.mean() - 1.96 * values.std() / 20, values.mean() + 1.96 * values.std() / 20
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.01)


def test_an_interval_needs_a_resample() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        paired_mean_bootstrap([1.0, 0.0], [0.0, 1.0], generator(), resamples=0)


def correctness(both: int, only_a: int, only_b: int, neither: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    counts = (both, only_a, only_b, neither)
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


def test_mcnemar_on_fays_table() -> None:
    found = mcnemar(*correctness(21, 9, 2, 12))  # the table of R's exact2x2, p = 0.06543
    assert found.p_value == pytest.approx(134 / 2048)  # 2 (1 + 11 + 55) / 2^11
    assert (found.for_a, found.for_b) == (9, 2)
    assert found.difference == pytest.approx(7 / 44)


def test_mcnemar_on_agrestis_approval_ratings() -> None:
    found = mcnemar(*correctness(794, 150, 86, 570))  # Agresti 1990, p. 350: 1,600 voters asked twice
    assert found.p_value == pytest.approx(2 * sum(math.comb(236, k) for k in range(87)) / 2**236)
    assert found.p_value == pytest.approx(3.7e-5, rel=0.1)


def test_mcnemar_without_discordant_pairs_or_with_equally_many_gives_one() -> None:
    assert mcnemar(*correctness(5, 0, 0, 3)).p_value == 1.0
    assert mcnemar(*correctness(5, 4, 4, 3)).p_value == 1.0
    assert mcnemar([1], [0]).p_value == 1.0


def test_mcnemar_over_seeds_is_the_sign_flip_test_over_all_assignments_of_signs() -> None:
    right = generator(3).random((2, 3, 10)) < np.array([0.8, 0.4])[:, None, None]
    differences = right[0].sum(axis=0) - right[1].sum(axis=0).astype(int)
    sums = np.array([np.dot(signs, differences) for signs in product((-1, 1), repeat=10)])
    exact = np.mean(np.abs(sums) >= abs(differences.sum()))
    assert 0.001 < exact < 0.3
    assert mcnemar(*right).p_value == pytest.approx(exact)


def test_repeating_a_seed_leaves_the_p_value_as_it_is() -> None:
    a, b = correctness(21, 9, 2, 12)
    assert mcnemar([a] * 5, [b] * 5).p_value == pytest.approx(134 / 2048)


def test_mcnemar_ignores_the_order_of_examples_and_of_seeds_and_mirrors_its_arguments() -> None:
    a, b = generator().random((2, 3, 40)) < 0.6
    shuffled = generator(1).permutation(40)
    found, mirrored = mcnemar(a, b), mcnemar(b, a)
    assert mcnemar(a[::-1, shuffled], b[:, shuffled]) == found
    assert (mirrored.p_value, mirrored.difference, mirrored.for_a) == (found.p_value, -found.difference, found.for_b)


def test_equal_methods_are_called_different_in_at_most_five_per_cent() -> None:
    rates = generator(1).beta(2, 1, size=(1, 100))
    right = generator(2).random((500, 2, 3, 100)) < rates
    assert 0.01 <= np.mean([mcnemar(a, b).p_value <= 0.05 for a, b in right]) <= 0.07


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [([], [], "hold no values"), ([1, 0], [1], "must share"), ([2, 0], [1, 0], "right and wrong are 1 and 0")],
)
def test_what_mcnemar_cannot_compare_is_refused(a: list[int], b: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        mcnemar(a, b)


@pytest.fixture
def predictions() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Two methods with 2 seeds on 150 labels, right in about 85 and 78 %."""
    labels = (generator(5).random(150) < 0.4).astype(np.int64)
    wrong = generator(6).random((2, 2, 150)) < np.array([0.15, 0.22])[:, None, None]
    a, b = np.where(wrong, 1 - labels, labels)
    return a, b, labels


def general_bootstrap(
    a: NDArray[Any],
    b: NDArray[Any],
    labels: NDArray[Any],
    statistic: Callable[[NDArray[Any], NDArray[Any]], float],
    resamples: int,
) -> PairedDifference:
    """The paired bootstrap by its definition: examples drawn one by one, `statistic` of (predictions, labels)."""

    def difference(chosen: NDArray[np.int64]) -> float:
        of_runs = [[statistic(run[chosen], labels[chosen]) for run in method] for method in (a, b)]
        return float(np.mean(of_runs[0]) - np.mean(of_runs[1]))

    random, examples = generator(), len(labels)
    drawn = np.array([difference(random.integers(examples, size=examples)) for _ in range(resamples)])
    p_value = min(1.0, 2 * (1 + min(np.sum(drawn <= 1e-12), np.sum(drawn >= -1e-12))) / (resamples + 1))
    return PairedDifference(difference(np.arange(examples)), percentile_interval(drawn, 0.95), p_value)


def agrees(fast: PairedDifference, general: PairedDifference, tolerance: float) -> bool:
    """Whether two bootstraps differ by no more than chance in their resamples."""
    assert fast.difference == pytest.approx(general.difference)
    ends = (fast.interval.low, fast.interval.high), (general.interval.low, general.interval.high)
    return ends[0] == pytest.approx(ends[1], abs=tolerance) and abs(fast.p_value - general.p_value) < 0.02


def test_the_mean_bootstrap_agrees_with_the_general_one(predictions: Any) -> None:
    a, b, labels = predictions
    general = general_bootstrap(a, b, labels, accuracy, resamples=4_000)
    assert agrees(paired_mean_bootstrap(a == labels, b == labels, generator()), general, 0.004)


def confusion(runs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """True positives, false positives, false negatives and true negatives, (seeds, examples, 4)."""
    cells = [(1, 1), (1, 0), (0, 1), (0, 0)]
    return np.stack([(runs == said) & (labels == true) for said, true in cells], axis=-1).astype(float)


def f1_of_means(means: NDArray[Any]) -> NDArray[Any]:
    hit, false, missed, _ = np.moveaxis(means, -1, 0)
    return np.asarray(2 * hit / (2 * hit + false + missed))


def mcc_of_means(means: NDArray[Any]) -> NDArray[Any]:
    hit, false, missed, rest = np.moveaxis(means, -1, 0)
    margins = (hit + false) * (hit + missed) * (rest + false) * (rest + missed)
    return np.asarray((hit * rest - false * missed) / np.sqrt(margins))


@pytest.mark.parametrize(
    ("of_means", "of_labels"), [(f1_of_means, f1_score), (mcc_of_means, matthews_corrcoef)], ids=["f1", "mcc"]
)
def test_statistics_of_means_agree_with_the_general_bootstrap(
    predictions: Any, of_means: Callable[..., Any], of_labels: Callable[..., float]
) -> None:
    a, b, labels = predictions

    def statistic(said: NDArray[Any], true: NDArray[Any]) -> float:
        return float(of_means(confusion(said, true).mean(axis=0)))

    general = general_bootstrap(a, b, labels, statistic, resamples=2_000)
    fast = paired_bootstrap_of_means(confusion(a, labels), confusion(b, labels), of_means, generator())
    assert agrees(fast, general, 0.012)
    scores = [np.mean([of_labels(labels, seed) for seed in method]) for method in (a, b)]
    assert fast.difference == pytest.approx(scores[0] - scores[1])


def test_a_tiny_bootstrap_has_the_p_value_and_interval_of_all_resamples() -> None:
    a, b = np.array([1.0, 1, 1, 1, 0]), np.array([0.0, 0, 1, 0, 1])
    exact = np.array([(a - b)[list(draw)].mean() for draw in product(range(5), repeat=5)])
    found = paired_mean_bootstrap(a, b, generator(), resamples=40_000)
    assert found.difference == pytest.approx(0.4)
    assert found.p_value == pytest.approx(2 * np.mean(exact <= 1e-12), abs=0.01)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(np.quantile(exact, [0.025, 0.975])))


def test_a_certain_difference_has_the_least_p_value_that_the_resamples_allow() -> None:
    assert paired_mean_bootstrap(np.ones(50), np.zeros(50), generator(), resamples=999).p_value == 2 / 1000


def test_equal_methods_differ_by_nothing_with_certainty() -> None:
    values = generator().random((3, 40))
    assert paired_mean_bootstrap(values, values, generator()) == PairedDifference(0.0, Interval(0.0, 0.0), 1.0)
    tenths = np.array([[[0.1]], [[0.2]], [[0.3]]])  # 0.1 + 0.2 + 0.3 > 0.3 + 0.2 + 0.1: rounding is none either
    found = paired_bootstrap_of_means(tenths, tenths[::-1], lambda means: means[..., 0], generator(), resamples=50)
    assert found.difference > 0
    assert found.p_value == 1.0


def test_a_difference_that_no_resample_contradicts_has_the_p_value_of_the_normal_approximation() -> None:
    a, b = generator(1).normal(1, 1, size=400), np.zeros(400)
    found = paired_mean_bootstrap(a, b, generator(), resamples=2_000)
    z = a.mean() / (a.std() / 20)
    assert norm.isf(found.p_value / 2) == pytest.approx(z, rel=0.05)
    assert 0 < found.p_value < 1e-50


def test_a_p_value_of_many_resamples_is_their_share() -> None:
    a = generator(1).normal(0.1, 1, size=400)
    found = paired_mean_bootstrap(a, np.zeros(400), generator(), resamples=999)
    assert found.p_value * 1000 / 2 == pytest.approx(round(found.p_value * 1000 / 2))
    assert found.p_value > 0.02


def test_resamples_without_a_value_count_against_significance() -> None:
    def unless_all_equal(means: NDArray[Any]) -> NDArray[Any]:
        said, label = np.moveaxis(means, -1, 0)
        return np.where((label > 0) & (label < 1), said, np.nan)

    a, b = (np.array([[[said, 0.0], [said, 1.0]]]) for said in (1.0, 0.0))
    found = paired_bootstrap_of_means(a, b, unless_all_equal, generator(), resamples=2_000)
    assert found.p_value == pytest.approx(1.0, abs=0.1)  # half of the resamples draw the same example twice
    assert found.interval == Interval(1.0, 1.0)


def test_a_statistic_without_a_value_on_the_whole_data_is_refused() -> None:
    with pytest.raises(ValueError, match="undefined on the whole data"):
        paired_bootstrap_of_means(np.zeros((1, 5, 4)), np.zeros((1, 5, 4)), f1_of_means, generator())


def test_what_does_not_pair_up_is_refused() -> None:
    with pytest.raises(ValueError, match="hold no values"):
        paired_mean_bootstrap([], [], generator())
    with pytest.raises(ValueError, match="must share"):
        paired_mean_bootstrap([1.0, 0.0], [1.0], generator())


def test_the_paired_interval_holds_its_confidence() -> None:
    draws = generator().normal(size=(300, 2, 2, 60)) + generator(1).normal(size=(300, 1, 1, 60))
    found = [paired_mean_bootstrap(a, b, generator(2), resamples=400) for a, b in draws]
    inside = [each.interval.low <= 0 <= each.interval.high for each in found]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.038)  # three standard errors
    assert np.mean([each.p_value <= 0.05 for each in found]) == pytest.approx(0.05, abs=0.038)


def test_holm_on_the_textbook_example() -> None:
    adjusted = holm([0.01, 0.04, 0.03, 0.005])  # ascending: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 is held at 0.06
    assert adjusted.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_keeps_the_order_of_the_input_and_stays_a_probability() -> None:
    p = generator().random(20)
    shuffled = generator(1).permutation(20)
    assert holm(p[shuffled]) == pytest.approx(holm(p)[shuffled])
    assert np.all(np.diff(holm(np.sort(p))) >= 0)
    assert np.all((holm(p) >= p) & (holm(p) <= 1))
    assert holm([0.03]).tolist() == [0.03]


@pytest.mark.parametrize("p_values", [[], [0.5, 1.2], [0.5, math.nan]])
def test_holm_refuses_what_are_no_p_values(p_values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"hold no values|between 0 and 1|missing"):
        holm(p_values)


@pytest.mark.parametrize(("level", "expected"), [(0.05, 0.147), (level_against_best(10), 0.038)])
def test_choosing_the_best_on_the_test_data_costs_what_the_docstring_says(level: float, expected: float) -> None:
    """Ten equal methods with scores of variance 1; `expected` is the range's distribution: P(range > √2 z(p / 2))."""
    rows = np.sort(generator().normal(size=(2_000, 10)), axis=1)
    p_values = [[math.erfc((row[-1] - other) / 2) for other in row[:-1]] for row in rows]
    assert np.mean([(holm(row) <= level).any() for row in p_values]) == pytest.approx(expected, abs=0.025)
