"""The GLUE metrics as an `evaluate.Metric`, with the edge cases that the benchmark leaves to the implementer.

Definitions: Wang et al. 2019 (GLUE). Inputs are class ids (float scores for stsb); results are fractions in [0, 1] or
correlations in [-1, 1]. A correlation of constant predictions is undefined: it is None here, never NaN.
"""

from __future__ import annotations

import warnings
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from tasks.metrics.averages import mean_or_none as mean_or_none

WITH_F1 = ("mrpc", "qqp")
CONFIGS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")


class GlueMetric(evaluate.Metric):
    """`GlueMetric(config_name="mrpc").compute(predictions=..., references=...)` gives {"accuracy": ..., "f1": ...}."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in CONFIGS:
            raise KeyError(f"no GLUE metric for '{self.config_name}', only for {', '.join(CONFIGS)}")
        value = "float32" if self.config_name == "stsb" else "int64"
        return evaluate.MetricInfo(
            description="GLUE metrics",
            citation="Wang et al. 2019, arXiv:1804.07461",
            features=datasets.Features({"predictions": datasets.Value(value), "references": datasets.Value(value)}),
            format="numpy",
        )

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any], **_: Any) -> dict[str, float | None]:
        return glue_metrics(self.config_name, predictions, references)


def glue_metrics(config: str, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float | None]:
    """The metrics of one GLUE config over all rows at once; both arrays have shape (examples,), examples >= 1."""
    if len(references) == 0:
        raise ValueError("there is nothing to score: the evaluation set is empty")
    if config == "stsb":
        pair = {"pearson": _correlation(pearsonr, predictions, references)}
        pair["spearmanr"] = _correlation(spearmanr, predictions, references)
        return pair | {"combined_score": mean_or_none(list(pair.values()))}
    accuracy = float(np.mean(predictions == references))
    if config == "cola":
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions)), "accuracy": accuracy}
    if config in WITH_F1:
        f1 = float(f1_score(references, predictions, pos_label=1, zero_division=0.0))
        return {"accuracy": accuracy, "f1": f1, "combined_score": (accuracy + f1) / 2}
    return {"accuracy": accuracy}


def _correlation(function: Any, predictions: NDArray[Any], references: NDArray[Any]) -> float | None:
    if len(references) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(function(predictions.astype(np.float64), references.astype(np.float64)).statistic)
    return value if np.isfinite(value) else None
