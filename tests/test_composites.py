"""Composite scores against the tables that their authors published, means against hand-worked values."""

from __future__ import annotations

import pytest

from bench.measure.composites import model_compression_rate, ppt, pscp, time_average

MILLION = 1e6

# V-PETL Bench README: method, millions of trainable parameters, mean score in per cent, PPT as printed
VTAB = [
    ("HST", 0.78, 75.99, 0.74),
    ("GPS", 0.22, 75.18, 0.74),
    ("DTL", 0.04, 74.58, 0.75),
    ("Hydra", 0.28, 74.21, 0.73),
    ("LAST", 0.66, 74.15, 0.72),
    ("SNF", 0.25, 74.10, 0.73),
    ("RepAdapter", 0.22, 73.84, 0.72),
    ("SCT", 0.11, 73.59, 0.73),
    ("NOAH", 0.43, 73.25, 0.72),
    ("FacT", 0.07, 73.23, 0.73),
    ("SSF", 0.21, 73.10, 0.72),
    ("AdaptFormer", 0.16, 72.32, 0.72),
    ("LoRA", 0.29, 72.25, 0.71),
    ("LST", 2.38, 71.70, 0.65),
    ("Adapter", 0.16, 71.44, 0.71),
    ("VPT-Deep", 0.56, 69.43, 0.68),
    ("VPT-Shallow", 0.08, 64.85, 0.65),
    ("BitFit", 0.1, 62.05, 0.61),
    ("Linear probing", 0, 52.94, 0.53),
]
FGVC = [
    ("GPS", 0.66, 91.78, 0.90),
    ("SNF", 0.25, 90.74, 0.90),
    ("SSF", 0.39, 90.72, 0.89),
    ("HST", 0.78, 90.46, 0.88),
    ("U-Tuning", 0.36, 90.00, 0.89),
    ("LAST", 0.66, 89.50, 0.87),
    ("VPT-Deep", 0.85, 89.10, 0.86),
    ("AdaptFormer", 0.46, 88.48, 0.87),
    ("BitFit", 0.1, 88.02, 0.88),
    ("Prefix Tuning", 0.36, 86.38, 0.85),
    ("Adapter", 0.41, 85.66, 0.84),
    ("LoRA", 0.77, 84.78, 0.82),
    ("VPT-Shallow", 0.25, 84.66, 0.84),
    ("Linear probing", 0, 79.32, 0.79),
]
PUBLISHED_PPT = [("VTAB", *row) for row in VTAB] + [("FGVC", *row) for row in FGVC]
PPT_PRINTED_AND_RECOMPUTED = {
    ("VTAB", "DTL"): (0.75, 0.7445),
    ("VTAB", "RepAdapter"): (0.72, 0.7315),
    ("VTAB", "BitFit"): (0.61, 0.6178),
    ("FGVC", "GPS"): (0.90, 0.8927),
}
"""The cells that do not follow from the README's own columns."""

# PEFT-Bench, Llama-3-8B-Instruct: method, score, trainable parameters, forward tera-FLOPs, GB, PSCP at exponent 1, at 2
BASE_TERA_FLOPS = 8.38
PEFT_BENCH = [
    ("LoRA", 80.1, 14_680_064, 8.38, 27.75, 60.08, 45.06),
    ("LNTuning", 77.8, 266_240, 8.38, 27.43, 60.19, 46.57),
    ("BitFit", 75.3, 163_840, 8.38, 27.20, 58.38, 45.26),
    ("IA3", 74.7, 196_608, 8.69, 28.41, 55.62, 41.41),
    ("P-tuning", 51.7, 53_130_752, 10.06, 34.53, 29.26, 16.56),
    ("Prompt tuning", 50.0, 409_600, 10.05, 42.47, 29.49, 17.39),
    ("Prefix tuning", 45.9, 34_177_536, 8.39, 27.61, 33.18, 23.98),
]


@pytest.mark.parametrize(("benchmark", "method", "millions", "score", "printed"), PUBLISHED_PPT)
def test_ppt_gives_the_published_cells(
    benchmark: str, method: str, millions: float, score: float, printed: float
) -> None:
    ours = ppt(score / 100, millions * MILLION)
    if (benchmark, method) in PPT_PRINTED_AND_RECOMPUTED:
        assert (printed, round(ours, 4)) == PPT_PRINTED_AND_RECOMPUTED[benchmark, method]
        assert round(ours, 2) != printed
    else:
        assert round(ours, 2) == printed


def test_ppt_is_known_to_differ_from_four_of_33_cells() -> None:
    assert (len(PUBLISHED_PPT), len(PPT_PRINTED_AND_RECOMPUTED)) == (33, 4)


@pytest.mark.parametrize(("score", "expected"), [(65.57, 0.246), (88.54, 0.332)])
def test_ppt_of_full_fine_tuning_which_the_readme_leaves_blank(score: float, expected: float) -> None:
    assert ppt(score / 100, 85.8 * MILLION) == pytest.approx(expected, abs=5e-4)


def test_ppt_without_parameters_is_the_score_and_loses_a_factor_e_at_nine_times_the_constant() -> None:
    assert ppt(0.8, 0) == 0.8
    assert ppt(0.8, 9e7) == pytest.approx(0.8 / 2.718281828)


@pytest.mark.parametrize(
    ("method", "score", "parameters", "tera_flops", "memory_gb", "exponent_1", "exponent_2"), PEFT_BENCH
)
def test_pscp_over_the_base_model_gives_the_published_values(
    method: str,
    score: float,
    parameters: int,
    tera_flops: float,
    memory_gb: float,
    exponent_1: float,
    exponent_2: float,
) -> None:
    overhead = tera_flops - BASE_TERA_FLOPS
    assert round(pscp(score, parameters, overhead, memory_gb, 1), 2) == exponent_1
    assert round(pscp(score, parameters, overhead, memory_gb, 2), 2) == exponent_2


def test_pscp_with_the_whole_models_flops_is_little_more_than_half_for_the_same_lora_run() -> None:
    assert round(pscp(80.1, 14_680_064, 8.38, 27.75, 1), 2) == 32.69


def test_pscp_halves_at_each_of_its_constants_and_quarters_at_exponent_two() -> None:
    assert pscp(80, 5e8, 0, 0, 1) == pscp(80, 0, 10, 0, 1) == pscp(80, 0, 0, 94, 1) == 40
    assert pscp(80, 5e8, 0, 0, 2) == 20
    assert pscp(80, 5e8, 10, 94, 1) == 10


def test_a_mean_over_time_weighs_samples_by_the_time_they_stand_for() -> None:
    # a ramp from 0 to 4 in a second, then 4 for nine: (2 · 1 + 4 · 9) / 10
    assert time_average([100.0, 101.0, 110.0], [0.0, 4.0, 4.0]) == pytest.approx(3.8)


def test_a_mean_over_time_of_a_constant_is_that_constant() -> None:
    assert time_average([0.0, 0.1, 5.0], [7.0, 7.0, 7.0]) == pytest.approx(7.0)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 1.0]])
def test_a_mean_over_no_time_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="span some time"):
        time_average(times, [0.5] * len(times))


def test_samples_without_their_times_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        time_average([0.0, 1.0, 2.0], [0.5, 0.5])


def test_compression_rate_discounts_the_smaller_size_by_the_lost_score() -> None:
    # a quarter of the size at nine tenths of the score
    assert model_compression_rate(16e9, 4e9, 80.0, 72.0) == pytest.approx(3.6)
    assert model_compression_rate(16e9, 16e9, 80.0, 80.0) == 1.0
