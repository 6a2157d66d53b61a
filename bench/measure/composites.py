"""Scores and means that other benchmarks define, by their own formulas, so that our records can be read beside theirs.

EfficientLLM (arXiv:2505.13840) has six metrics; as its published code computes them, over a window of T seconds with N
iterations:

    AMU   (1/T) ∫ memory in use dt                              GB in its training code, a fraction in inference
    PCU   (1/T) ∫ utilisation / peak utilisation dt             ratio; named a peak, but a mean of sampled utilisation
    AL    sum of (computation + communication time) / N         seconds per iteration
    TT    sum of (tokens / parameters) / sum of time            tokens per second per parameter, in pretraining
    ST    sum of (samples / parameters) / sum of time           samples per second per parameter, in fine-tuning
    IT    sum of generated tokens / sum of time                 tokens per second, not normalised
    AEC   (1/T) ∫ power dt = energy / T                         watts; named an energy, but a mean power
    MCR   (size / compressed size) × (compressed score / score) ratio

TT, ST and IT count as one metric, the throughput. AMU and PCU are `time_average` of sampled memory and utilisation, MCR
is `model_compression_rate`; AL, TT, ST, IT and AEC divide one total by another, which needs no function.

PPT (V-PETL Bench) and PSCP (PEFT-Bench) fold a score and its costs into one number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

PPT_PARAMETERS = 1e7
"""C of PPT: trainable parameters at which the penalty is exp(-log10 2) = 0.74."""

PSCP_PARAMETERS = 5e8
"""C_p of PSCP: trainable parameters that halve the score at exponent 1."""
PSCP_TERA_FLOPS = 10.0
"""C_f of PSCP: forward tera-FLOPs that halve the score at exponent 1."""
PSCP_MEMORY_GB = 94.0
"""C_m of PSCP: gigabytes that halve the score at exponent 1; the memory of one H100 NVL."""


def ppt(score: float, trainable_parameters: float) -> float:
    """Performance-parameter trade-off of V-PETL Bench (Xin et al. 2024, NeurIPS), between 0 and `score`.

    PPT = M · exp(-log10(P / C + 1)), with the task score M in [0, 1], P trainable parameters and C = 1e7. Unitless.
    """
    return score * math.exp(-math.log10(trainable_parameters / PPT_PARAMETERS + 1))


def pscp(
    score: float, trainable_parameters: float, forward_tera_flops: float, memory_gb: float, exponent: float
) -> float:
    """PSCP of PEFT-Bench (arXiv:2511.21285), in the unit of `score`.

    PSCP = M · ((1 + P / C_p) (1 + F / C_f) (1 + G / C_m))^-exponent, with P trainable parameters, F tera-FLOPs (1e12)
    of a forward pass, G GB (1e9 bytes) of training memory, C_p = 5e8, C_f = 10 and C_m = 94. The definition allows an
    exponent per cost; the published code uses one for all, in two variants: its offline script counts the FLOPs above
    the base model's with exponent 2, its trainer the whole model's with exponent 1.
    """
    costs = (
        (1 + trainable_parameters / PSCP_PARAMETERS)
        * (1 + forward_tera_flops / PSCP_TERA_FLOPS)
        * (1 + memory_gb / PSCP_MEMORY_GB)
    )
    return float(score * costs**-exponent)


def time_average(times: Sequence[float], values: Sequence[float]) -> float:
    """Mean over time, (1/T) ∫ value dt, of samples taken at ascending `times` in seconds; in the unit of `values`.

    The integral is the trapezoidal rule over the samples, T the time from the first to the last, so that unevenly
    spaced samples weigh by the time they stand for. Raises ValueError unless the samples span some time.
    """
    if len(times) < 2 or times[-1] <= times[0]:
        raise ValueError(f"A mean over time needs samples that span some time; got {len(times)} at {list(times[:2])}.")
    samples = zip(times, values, strict=True)
    area = sum((end - start) * (before + after) / 2 for (start, before), (end, after) in pairwise(samples))
    return area / (times[-1] - times[0])


def model_compression_rate(
    bytes_original: float, bytes_compressed: float, score_original: float, score_compressed: float
) -> float:
    """EfficientLLM's MCR: how much smaller a model has become, discounted by the score that it lost on the same task.

    MCR = (bytes_original / bytes_compressed) · (score_compressed / score_original). Unitless; 1 if nothing changes.
    """
    return (bytes_original / bytes_compressed) * (score_compressed / score_original)
