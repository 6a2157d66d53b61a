"""The nine GLUE tasks: Wang et al. 2019, arXiv:1804.07461.

Scored on the validation splits (test labels are hidden), each metric once over all rows. STS-B is regression on the
raw 0..5 score, neither scaled nor clipped. MNLI is one training run and two evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tasks.base import Examples
from tasks.rows import Columns
from tasks.text import TextTask, suffix_of

METRICS = {
    "cola": ("matthews_correlation", "accuracy"),
    "mrpc": ("accuracy", "f1", "combined_score"),
    "qqp": ("accuracy", "f1", "combined_score"),
    "stsb": ("pearson", "spearmanr", "combined_score"),
}
"""Where it is not accuracy alone."""


@dataclass(frozen=True, kw_only=True)
class GlueTask(TextTask):
    """One GLUE task, described by `conf/task/glue/<config>.yaml`."""

    kinds: ClassVar[Sequence[str]] = ("classification", "regression")

    @property
    def phrase_column(self) -> str | None:
        """SST-2 trains on phrases of sentences, the sentences among them, and reports whole sentences."""
        return "sentence" if self.config == "sst2" else None

    @property
    def metric_names(self) -> Sequence[str]:
        """GLUE's metrics of every reported split, and MNLI's mean over both."""
        of_one = METRICS.get(self.config, ("accuracy",))
        names = [f"{name}{suffix_of(split)}" for split in self.reported_splits for name in of_one]
        return names if len(self.reported_splits) == 1 else [*names, "combined_score"]

    def metrics(self, split: str, predictions: Columns, examples: Examples) -> dict[str, float | None]:
        """GLUE's metrics of one split."""
        from tasks.metrics.glue import GlueMetric

        metric = GlueMetric(config_name=self.config, keep_in_memory=True)
        return metric.compute(predictions=predictions["prediction"], references=examples.labels)

    def combined(self, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
        """The mean of MNLI's matched and mismatched accuracy."""
        from tasks.metrics.averages import mean_or_none

        return {"combined_score": mean_or_none(list(metrics.values()))}
