"""Boards as CSV files with stable columns and rounding, so that equal records give equal bytes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pandas as pd

from bench.index import Index
from bench.leaderboard.aggregate import Board, averages, by_settings, overall

DIGITS = 4


def publish(results: Path, index: Index | None = None) -> list[Path]:
    """Write every board of the records under `results` and return the files; `index` spares looking for the records."""
    runs = (index or Index.refreshed(results)).runs
    pairs = runs.groupby(["budget", "data_source"])
    folders = {number: Board.of(*map(str, pair)).folder for number, (pair, _) in enumerate(pairs)}
    written: list[Path] = []
    for name, of_board in runs.groupby(pairs.ngroup().map(folders)):
        table = by_settings(of_board)
        folder = results / "leaderboard" / str(name)
        written += [_write(rows, folder / f"{task}.csv") for task, rows in table.groupby("task")]
        written.append(_write(overall(table), folder / "overall.csv"))
        benchmarks = averages(table)
        if len(benchmarks):
            written.append(_write(benchmarks, folder / "averages.csv"))
    return written


def _write(table: pd.DataFrame, path: Path) -> Path:
    """Write the table unless the file holds it already."""
    content = table.round(DIGITS).to_csv(index=False, lineterminator="\n").encode()
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
