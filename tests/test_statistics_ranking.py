"""Ranks, aggregates over tasks and trade-offs against published, hand-worked and brute-force values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from bench.stats.aggregates import estimate, interquartile_mean, performance_profile
from bench.stats.intervals import Estimate, Interval
from bench.stats.ranking import (
    borda_counts,
    critical_difference,
    friedman,
    mean_ranks,
    probability_of_improvement,
    ranks,
    win_rates,
)
from bench.stats.resampling import stratified
from bench.stats.trade_offs import cheapest_within_one_standard_error, pareto_front

# Demšar 2006, table 6: ranks of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets
DEMSAR_RANKS = np.array(
    [
        (4, 3, 2, 1),
        (1, 2, 3, 4),
        (4, 1, 2, 3),
        (4, 1, 3, 2),
        (4, 2, 3, 1),
        (1, 2.5, 4, 2.5),
        (3, 2, 4, 1),
        (2.5, 2.5, 4, 1),
        (4, 3, 2, 1),
        (2.5, 2.5, 2.5, 2.5),
        (4, 2.5, 1, 2.5),
        (3, 2, 4, 1),
        (4, 1, 2, 3),
        (3, 1, 4, 2),
    ]
).T
# Demšar 2006, table 5a: critical values of the Nemenyi test for 2 to 10 classifiers
NEMENYI = {
    0.05: [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164],
    0.10: [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920],
}
SCORES = np.array([[90.0, 80, 70], [90, 85, 60], [50, 80, 60]])
"""Ranks by hand: (1.5, 2.5, 1), (1.5, 1, 2.5), (3, 2.5, 2.5)."""


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_tied_methods_share_their_mean_rank() -> None:
    assert ranks(SCORES).tolist() == [[1.5, 2.5, 1], [1.5, 1, 2.5], [3, 2.5, 2.5]]
    assert mean_ranks(SCORES).tolist() == pytest.approx([5 / 3, 5 / 3, 8 / 3])


def test_borda_counts_and_win_rates_count_ties_half() -> None:
    assert borda_counts(SCORES).tolist() == [4, 4, 1]  # of 2 points for each of 3 tasks
    assert win_rates(SCORES).tolist() == pytest.approx([4 / 6, 4 / 6, 1 / 6])


def test_win_rates_are_the_pairs_won() -> None:
    scores = generator().integers(5, size=(6, 9)).astype(float)
    pairs = [
        np.mean([np.sign(row - other) / 2 + 0.5 for j, other in enumerate(scores) if j != i])
        for i, row in enumerate(scores)
    ]
    assert win_rates(scores) == pytest.approx(np.array(pairs))


def test_ranks_follow_the_methods_and_ignore_the_order_of_tasks_and_their_scales() -> None:
    scores = generator().normal(size=(5, 7))
    methods, tasks = generator(1).permutation(5), generator(2).permutation(7)
    assert mean_ranks(scores[methods][:, tasks]) == pytest.approx(mean_ranks(scores)[methods])
    assert mean_ranks(np.exp(scores) * np.arange(1, 8)) == pytest.approx(mean_ranks(scores))


@pytest.mark.parametrize("statistic", [mean_ranks, borda_counts, win_rates, friedman])
def test_methods_with_other_tasks_are_never_compared(statistic: Any) -> None:
    with pytest.raises(ValueError, match="1 of the 4 scores are missing, and averages over different sets of tasks"):
        statistic([[1.0, 2.0], [3.0, math.nan]])
    with pytest.raises(ValueError, match="hold no values"):
        statistic([])


def test_friedman_on_demsars_four_classifiers() -> None:
    found = friedman(-DEMSAR_RANKS)
    assert mean_ranks(-DEMSAR_RANKS).tolist() == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.chi_square == pytest.approx(9.28, abs=0.005)
    assert found.f == pytest.approx(3.69, abs=0.005)
    assert stats.f.isf(found.f_p_value, 3, 39) == pytest.approx(found.f)
    assert found.f_p_value < 0.05  # the paper's critical value is F(3, 39) = 2.85


def test_friedman_is_scipys_where_nothing_ties() -> None:
    scores = generator().normal(size=(4, 12))
    expected = stats.friedmanchisquare(*scores)
    found = friedman(scores)
    assert (found.chi_square, found.chi_square_p_value) == pytest.approx((expected.statistic, expected.pvalue))


def test_friedman_at_its_extremes() -> None:
    nothing = friedman(np.ones((3, 5)))
    assert (nothing.chi_square, nothing.chi_square_p_value, nothing.f, nothing.f_p_value) == (0, 1, 0, 1)
    always = friedman(np.outer([3, 2, 1], np.ones(5)))
    assert always.chi_square == pytest.approx(10)  # N (k - 1), its greatest value
    assert always.f == math.inf
    assert always.f_p_value == pytest.approx(1 / 6**4), "all orders of three methods are as likely on each further task"
    two = friedman(np.outer([2, 1], np.ones(4)))
    assert two.f_p_value == pytest.approx(1 / 8), "as that of four coins that fall alike"


@pytest.mark.parametrize("scores", [[[1.0, 2.0]], [[1.0], [2.0]]])
def test_friedman_needs_two_methods_and_two_tasks(scores: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="needs two"):
        friedman(scores)


@pytest.mark.parametrize("level", NEMENYI)
def test_critical_values_are_those_of_demsars_table(level: float) -> None:
    for methods, q in enumerate(NEMENYI[level], start=2):
        one_over_root = math.sqrt(methods * (methods + 1) / 6)
        assert critical_difference(methods, 1, level) / one_over_root == pytest.approx(q, abs=1.1e-3)


def test_the_critical_difference_of_demsars_example() -> None:
    assert critical_difference(4, 14, level=0.10) == pytest.approx(1.12, abs=0.005)


@pytest.mark.parametrize(("methods", "tasks"), [(1, 5), (3, 0)])
def test_a_critical_difference_needs_two_methods_and_a_task(methods: int, tasks: int) -> None:
    with pytest.raises(ValueError, match="are the least"):
        critical_difference(methods, tasks)


def test_probability_of_improvement_counts_pairs_of_runs_with_ties_half() -> None:
    x, y = [[1.0, 5.0], [2.0, 5.0]], [[1.0, 6.0], [0.0, 7.0]]
    # task 1: 1-1 tie, 1-0, 2-1, 2-0 won: 3.5 of 4; task 2: none of 4
    assert probability_of_improvement(x, y, generator(), resamples=50).value == pytest.approx(3.5 / 8)
    assert probability_of_improvement(y, x, generator(), resamples=50).value == pytest.approx(4.5 / 8)
    assert probability_of_improvement(x, x, generator(), resamples=50).value == 0.5


def test_probability_of_improvement_is_the_mean_mann_whitney_statistic_over_tasks() -> None:
    x, y = generator(1).integers(9, size=(5, 4)), generator(2).integers(9, size=(3, 4))
    expected = [stats.mannwhitneyu(x[:, task], y[:, task]).statistic / 15 for task in range(4)]
    found = probability_of_improvement(x, y, generator())
    assert found.value == pytest.approx(np.mean(expected))
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high


def test_one_seed_has_a_probability_of_improvement_without_an_interval() -> None:
    assert probability_of_improvement([[3.0]], [[1.0], [2.0]], generator()).interval is None
    with pytest.raises(ValueError, match="must be the same tasks"):
        probability_of_improvement([[3.0]], [[1.0, 2.0]], generator())


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert interquartile_mean([[1, 2, 3, 4], [5, 6, 7, 8]]) == 4.5  # 3, 4, 5, 6
    assert interquartile_mean([[-999, 2, 3, 4], [5, 6, 7, 999]]) == 4.5
    assert interquartile_mean([[1, 2, 3], [4, 5, 60]]) == 3.5  # one of six goes at either end
    assert interquartile_mean([[7.0]]) == 7.0


def mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over seeds and tasks."""
    return np.asarray(scores.mean(axis=(-2, -1)))


def test_the_interquartile_mean_is_the_trimmed_mean_of_all_runs_in_any_order() -> None:
    scores = generator().normal(size=(5, 7))
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
    assert interquartile_mean(scores.T[::-1]) == pytest.approx(interquartile_mean(scores))


def test_seeds_are_resampled_within_their_task() -> None:
    for statistic in (mean, interquartile_mean):
        found = estimate(np.tile([10.0, 50.0, 90.0], (4, 1)), statistic, 0, resamples=100)
        assert found.interval == Interval(50.0, 50.0)  # tasks that differ are no uncertainty


def test_the_interval_of_a_mean_is_that_of_independent_seeds_in_each_task() -> None:
    scores = generator().normal(size=(8, 30)) + np.arange(30)
    found = estimate(scores, mean, 1)
    half_width = 1.96 * math.sqrt(scores.var(axis=0).mean() / (8 * 30))
    assert found.interval is not None
    limits = (scores.mean() - half_width, scores.mean() + half_width)
    assert (found.interval.low, found.interval.high) == pytest.approx(limits, abs=0.01)


@pytest.mark.parametrize(("seeds", "coverage"), [(3, 0.87), (10, 0.94)])
def test_the_intervals_cover_what_the_docstring_says(seeds: int, coverage: float) -> None:
    draws = generator().normal(size=(400, seeds, 8))
    intervals = [estimate(draw, interquartile_mean, 1, 300).interval for draw in draws]
    inside = [each is not None and each.low <= 0 <= each.high for each in intervals]
    assert np.mean(inside) == pytest.approx(coverage, abs=0.04)


def test_one_seed_has_aggregates_without_intervals() -> None:
    assert estimate([[1.0, 2.0, 6.0]], mean, 0) == Estimate(3.0, None)
    assert performance_profile([[1.0, 2.0]], [1.5]).low is None


def test_a_profile_is_the_share_of_runs_strictly_above_each_threshold() -> None:
    found = performance_profile([[1, 2], [3, 4]], [0, 1, 2, 3, 4])
    assert found.share.tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_a_profiles_band_is_that_of_many_resamples_within_tasks() -> None:
    draw = generator()
    scores, levels = draw.random((3, 4)), np.array([0.2, 0.4, 0.6, 0.8])
    found = performance_profile(scores, levels)
    resampled = np.concatenate([stratified(scores, 2000, draw) for _ in range(20)])
    shares = (resampled[..., None] > levels).mean(axis=(1, 2))
    low, high = np.quantile(shares, [0.025, 0.975], axis=0, method="inverted_cdf")
    assert found.low is not None
    assert found.high is not None
    np.testing.assert_allclose(
        found.low, low, atol=1 / 12 + 1e-9
    )  # at most one run of twelve, where a tail is at 2.5 %
    np.testing.assert_allclose(found.high, high, atol=1 / 12 + 1e-9)
    assert np.mean(np.isclose(found.low, low)) >= 0.75


def test_a_profiles_band_is_binomial_within_tasks() -> None:
    scores = np.repeat([[0.0], [1.0]], [10, 30], axis=0) * np.ones((1, 20))  # 40 seeds, 20 tasks
    found = performance_profile(scores, [-1.0, 0.5, 2.0])
    half_width = 1.96 * math.sqrt(0.25 * 0.75 / 800)
    assert found.low is not None
    assert found.high is not None
    assert found.low.tolist() == pytest.approx([1, 0.75 - half_width, 0], abs=0.004)
    assert found.high.tolist() == pytest.approx([1, 0.75 + half_width, 0], abs=0.004)


@pytest.mark.parametrize("scores", [[], [[1.0, math.nan]], [1.0, 2.0]])
def test_aggregates_refuse_scores_that_are_missing(scores: Any) -> None:
    with pytest.raises(ValueError, match=r"hold no values|missing|expected 2 dimensions"):
        estimate(scores, interquartile_mean, 0)


def test_the_pareto_front_by_hand() -> None:
    cost = [1, 2, 2, 3, 3, 4, math.nan, 0]
    score = [50, 70, 60, 70, 80, 80, 99, math.nan]
    # (2, 60), (3, 70) and (4, 80) are bettered; the last two miss a value
    assert pareto_front(cost, score).tolist() == [True, True, False, False, True, False, False, False]


def test_equal_rows_stay_on_the_front_together() -> None:
    assert pareto_front([1, 1, 1], [5, 5, 4]).tolist() == [True, True, False]
    assert pareto_front([3.0], [1.0]).tolist() == [True]
    assert pareto_front([math.nan], [1.0]).tolist() == [False]


def test_the_front_is_what_no_row_betters_in_any_order() -> None:
    cost, score = generator().integers(12, size=(2, 60)).astype(float)

    def bettered(row: int) -> bool:
        return any((c <= cost[row] and s > score[row]) or (c < cost[row] and s >= score[row]) for c, s in rows)

    rows = list(zip(cost, score, strict=True))
    front = pareto_front(cost, score)
    assert front.tolist() == [not bettered(row) for row in range(60)]
    shuffled = generator(1).permutation(60)
    assert pareto_front(cost[shuffled], score[shuffled]).tolist() == front[shuffled].tolist()


def choice(cost: list[float], score: list[float], error: list[float]) -> int | None:
    return cheapest_within_one_standard_error(cost, score, error)


def test_the_cheapest_row_within_one_standard_error_of_the_best_is_chosen() -> None:
    cost, score = [9.0, 3, 2, 1], [90.0, 89, 88.5, 80]
    assert choice(cost, score, [1.0, 9, 9, 9]) == 1  # 89 is just within, 88.5 is not: only the best's error counts
    assert choice(cost, score, [1.5, 0, 0, 0]) == 2
    assert choice(cost, score, [0.0, 9, 9, 9]) == 0
    assert choice([2.0, 1, 1], [90.0, 89, 89.5], [2.0, 0, 0]) == 2  # equally cheap: the higher score
    assert choice([5.0, 2, 1], [90.0, 90, 89], [3.0, 0, 0]) == 1  # of two best rows the cheaper one's error counts


def test_rows_that_miss_a_value_are_never_chosen() -> None:
    assert choice([1.0, 5.0], [math.nan, 90.0], [0.0, 1.0]) == 1
    assert choice([math.nan, 5.0], [99.0, 90.0], [9.0, 1.0]) == 1
    assert choice([1.0, 5.0], [80.0, 90.0], [0.0, math.nan]) is None
    assert choice([math.nan], [1.0], [1.0]) is None


@pytest.mark.parametrize("columns", [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[2.0]])])
def test_columns_that_do_not_match_are_refused(columns: tuple[NDArray[Any], NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match=r"no rows|one length"):
        pareto_front(*columns)


def test_a_standard_error_is_never_negative() -> None:
    with pytest.raises(ValueError, match=r"found -1\.0"):
        choice([1.0], [1.0], [-1.0])
