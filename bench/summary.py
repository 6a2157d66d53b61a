"""The table a person sees at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from bench.record import RunRecord


def headline(record: RunRecord) -> str:
    """What ran, in one line that names budget and data, so that a short run is never taken for a real one."""
    return (
        f"{record.method} on {record.task}, {record.model}, seed {record.seed}: "
        f"budget {record.budget}, data {record.data_source}, {record.precision} on {record.device}"
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
    grid.add_row("record", str(folder / "record.json"))
    return grid


def _rows(record: RunRecord) -> list[tuple[str, str]]:
    rows = []
    if record.score is not None:
        rows.append((f"score ({record.metric})", f"{record.score:.2f} %  of {record.evaluation_examples:,} examples"))
    others = [f"{name} {value:.4f}" for name, value in record.metrics.items() if value is not None]
    if len(others) > 1:
        rows.append(("metrics", ", ".join(others)))
    if record.trainable_parameters is not None:
        share = f"{record.trainable_percent:.3f} %, head {record.head_parameters:,} apart"
        rows.append(("trainable parameters", f"{record.trainable_parameters:,}  ({share})"))
    if record.peak_memory_bytes is not None:
        rows.append(("peak memory in training", f"{record.peak_memory_bytes / 2**20:,.0f} MiB"))
    if record.train_samples_per_second is not None:
        speed = f"{record.train_samples_per_second:.1f} samples/s, {record.train_tokens_per_second:.0f} tokens/s"
        rows.append(("training throughput", speed))
    if record.phase_seconds:
        rows.append(("time", ", ".join(f"{name} {value:.1f} s" for name, value in record.phase_seconds.items())))
    return rows
