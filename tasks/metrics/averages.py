"""Averages over the tasks of a benchmark, each under its own definition; none exists while one of its tasks is missing.

Scores are headline numbers by task name, all on one scale (fractions or percent); the average is on the same scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

GLUE_EIGHT = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
GLUE_NINE = (*GLUE_EIGHT, "wnli")
SUPERGLUE_EIGHT = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The plain mean; None as soon as one value is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def glue_average(scores: Mapping[str, float]) -> float | None:
    """The average of the fine-tuning literature: eight tasks with one headline number each, without WNLI.

    MNLI counts by its matched half, CoLA by Matthews correlation, STS-B by Pearson, the rest by accuracy, as in the
    table of LoRA (Hu et al. 2021).
    """
    return mean_or_none([scores.get(task) for task in GLUE_EIGHT])


def glue_average_official(combined: Mapping[str, float]) -> float | None:
    """The leaderboard's GLUE score (Wang et al. 2019): nine tasks, WNLI among them.

    A task with two numbers enters by their mean, its `combined_score`: MNLI (matched and mismatched), MRPC and QQP
    (accuracy and F1), STS-B (Pearson and Spearman).
    """
    return mean_or_none([combined.get(task) for task in GLUE_NINE])


def superglue_average(scores: Mapping[str, float]) -> float | None:
    """SuperGLUE's score (Wang et al. 2019): eight headline numbers with equal weight, without AX-b and AX-g.

    The headline of CB, MultiRC and ReCoRD is the mean of their two metrics, of the other tasks accuracy.
    """
    return mean_or_none([scores.get(task) for task in SUPERGLUE_EIGHT])
