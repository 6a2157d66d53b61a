"""Boards as CSV files with stable columns and rounding, so that equal records give equal bytes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.leaderboard.aggregate import Board, averages, by_settings, frame, overall
from bench.store import Store

DIGITS = 4


def publish(results: Path) -> list[Path]:
    """Write every board of the records under `results` and return the files."""
    runs = frame(record for _, record in Store(results).records())
    boards = [Board.of(budget, source) for budget, source in zip(runs["budget"], runs["data_source"], strict=True)]
    written: list[Path] = []
    for board in sorted(set(boards), key=lambda board: board.folder):
        table = by_settings(runs[[candidate == board for candidate in boards]])
        folder = results / "leaderboard" / board.folder
        for task, rows in table.groupby("task"):
            written.append(_write(rows, folder / f"{task}.csv"))
        written.append(_write(overall(table), folder / "overall.csv"))
        benchmarks = averages(table)
        if len(benchmarks):
            written.append(_write(benchmarks, folder / "averages.csv"))
    return written


def _write(table: pd.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.round(DIGITS).to_csv(path, index=False, lineterminator="\n")
    return path
