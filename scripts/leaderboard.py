"""Build the leaderboard from the records: `python scripts/leaderboard.py [--results results]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from rich.console import Console
from rich.table import Table

from bench.index import Index
from bench.leaderboard.publish import publish

SHOWN = {
    "method": "method",
    "model": "model",
    "score_mean": "score",
    "score_std": "std",
    "seeds": "seeds",
    "trainable_parameters": "trainable",
    "train_samples_per_second_mean": "samples/s",
}

REPORTED = 10
"""At most this many unreadable records are named."""
ROWS = 40
"""At most this many rows of a board are shown; the file has all."""


def main() -> int:
    """Write the boards and show each task's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    results = parser.parse_args().results
    if not results.is_dir():
        print(f"error: {results} is no folder.", file=sys.stderr)
        return 2
    index = Index.refreshed(results)
    report_unreadable(index)
    files = publish(results, index)
    console = Console(soft_wrap=True, highlight=False)
    for file in files:
        if file.name not in ("overall.csv", "averages.csv"):
            console.print(_shown(file, results))
    console.print(f"{len(files)} tables in {results / 'leaderboard'}" if files else f"No complete record in {results}.")
    return 0


def report_unreadable(index: Index) -> None:
    """Say on standard error which records do not count, and why."""
    unreadable = index.unreadable
    for path, why in unreadable[:REPORTED]:
        print(f"not counted: {path}: {why}", file=sys.stderr)
    if len(unreadable) > REPORTED:
        print(f"not counted: {len(unreadable) - REPORTED} more records", file=sys.stderr)


def _shown(file: Path, results: Path) -> Table:
    board = pd.read_csv(file)
    table = Table(title=str(file.relative_to(results / "leaderboard").with_suffix("")), title_justify="left")
    for name in SHOWN.values():
        table.add_column(name)
    if len(board) > ROWS:
        table.caption = f"{len(board) - ROWS} more rows in {file}"
    for row in board[list(SHOWN)].head(ROWS).itertuples(index=False):
        table.add_row(
            *("" if pd.isna(cell) else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row)
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
