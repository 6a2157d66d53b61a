"""The table a person sees at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from bench.records.store import RECORD_FILE

if TYPE_CHECKING:
    from bench.records.record import RunRecord

MEBIBYTE = 2**20
CAUSES = {
    "base weights": "base_weight_bytes",
    "method and head": "method_weight_bytes",
    "buffers": "buffer_bytes",
    "gradients": "gradient_bytes",
    "activations": "activation_bytes",
    "optimizer state": "optimizer_bytes",
}
"""Columns of memory by cause, under their names for people."""


def headline(record: RunRecord) -> str:
    """What ran, in one line that names budget and data, so that a short run is never taken for a real one."""
    scored = ", scored on held-out training examples" if record.held_out else ""
    return (
        f"{record.method} on {record.task}, {record.model}, seed {record.seed}: "
        f"budget {record.budget}, data {record.data_source}{scored}, {record.precision} on {record.device}"
    )


def table(record: RunRecord, folder: Path) -> Table:
    """The run's main figures."""
    grid = Table(title=headline(record), title_justify="left", show_header=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    if record.status != "complete":
        grid.add_row("status", f"{record.status}: {record.error}")
    for name, value in _rows(record):
        grid.add_row(name, value)
    grid.add_row("record", str(folder / RECORD_FILE))
    return grid


def memory_by_cause(record: RunRecord) -> dict[str, int]:
    """Bytes of each cause that was measured."""
    values = {label: getattr(record, column) for label, column in CAUSES.items()}
    return {label: size for label, size in values.items() if size is not None}


def _rows(record: RunRecord) -> list[tuple[str, str]]:
    rows = []
    if record.score is not None:
        rows.append((f"score ({record.metric})", f"{record.score:.2f} %  of {record.evaluation_examples:,} examples"))
    if record.tuned_settings:
        values = ", ".join(f"{name}={value}" for name, value in record.tuned_settings.items())
        edge = "; the rate is at the edge of its range" if record.tuned_at_edge else ""
        rows.append(("chosen settings", f"{values}, best of {record.tuning_trials} trials ({record.tuning}){edge}"))
    others = [f"{name} {value:.4f}" for name, value in record.metrics.items() if value is not None]
    if len(others) > 1:
        rows.append(("metrics", ", ".join(others)))
    if record.trainable_parameters is not None:
        share = f"{record.trainable_percent:.3f} %, head {record.head_parameters:,} apart"
        rows.append(("trainable parameters", f"{record.trainable_parameters:,}  ({share})"))
    return rows + _cost_rows(record)


def _cost_rows(record: RunRecord) -> list[tuple[str, str]]:
    rows = []
    if record.peak_memory_bytes is not None:
        rows.append(("peak memory in training", f"{record.peak_memory_bytes / MEBIBYTE:,.0f} MiB"))
    causes = [f"{label} {size / MEBIBYTE:,.1f}" for label, size in memory_by_cause(record).items()]
    if causes:
        rows.append(("memory by cause, MiB", ", ".join(causes)))
    if record.train_samples_per_second is not None:
        tokens = record.train_tokens_per_second
        words = "" if tokens is None else f", {tokens:.0f} tokens/s"
        rows.append(("training throughput", f"{record.train_samples_per_second:.1f} samples/s{words}"))
    trained, served = record.trained_latency_seconds_median, record.inference_latency_seconds_median
    if trained is not None and served is not None:
        other = "" if record.inference_form == "trained" else f", {1e3 * served:.1f} ms {record.inference_form}"
        rows.append(("latency of one example", f"{1e3 * trained:.1f} ms{other}"))
    if record.generated_tokens_per_second is not None:
        ended = f"{100 * (record.truncated_share or 0):.1f} % ended by the limit"
        rows.append(("generation", f"{record.generated_tokens_per_second:.0f} tokens/s, {ended}"))
    if record.phase_seconds:
        rows.append(("time", ", ".join(f"{name} {value:.1f} s" for name, value in record.phase_seconds.items())))
    return rows
