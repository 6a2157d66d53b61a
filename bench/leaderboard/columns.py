"""What the boards use of a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.record import RunRecord

KEY = [
    "task",
    "model",
    "method",
    "settings_id",
    "budget",
    "tuning",
    "data_source",
    "data_subset",
    "precision",
    "device",
]
"""What the runs of one row have in common."""
AVERAGED = [
    "trainable_parameters",
    "trainable_percent",
    "head_parameters",
    "inference_parameters",
    "stored_bytes",
    "peak_memory_bytes",
    "train_samples_per_second",
    "train_tokens_per_second",
    "train_seconds",
]
RECORDED = [*KEY, "held_out", "seed", "metric", "score", *AVERAGED]
COLUMNS = [*RECORDED, "combined_score"]
WHOLE = "whole"
"""In place of a subset where the benchmark prescribes none."""
DEFAULTS = "defaults"
"""In place of a tuning where there was none."""


def board_values(record: RunRecord) -> dict[str, Any]:
    """A record's values of `COLUMNS`.

    `tuning` says how much of it there was. `data_subset` loses the hash of its rows, which differs from task to task.
    `combined_score` is the mean of a task's metrics where its benchmark averages several, else the score.
    """
    values = {name: getattr(record, name) for name in RECORDED}
    mean = record.metrics.get("combined_score")
    return values | {
        "tuning": DEFAULTS if record.tuning == "none" else _effort(record),
        "data_subset": (record.data_subset or WHOLE).partition(" ")[0],
        "combined_score": record.score if mean is None else 100 * mean,
    }


def _effort(record: RunRecord) -> str:
    return f"{record.tuning}, {record.tuning_trials} trials of {record.tuning_steps} steps"
