"""The boards as files, with stable columns and rounding, so that equal records give equal bytes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pandas as pd

from bench.index import Index
from bench.leaderboard import page
from bench.leaderboard.boards import Boards
from bench.leaderboard.documents import latex, markdown
from bench.store import Store

FOLDER = "leaderboard"
DEMONSTRATION = "demonstration"
"""Folder of the runs on built-in samples and of two steps, which say nothing about a method."""
FLOATS = "%.6g"
FORMULA = r"[=+\-@\t\r]"


def publish(results: Path, index: Index | None = None) -> list[Path]:
    """Write all boards of the records under `results`; returns the files. `index` spares looking for the records."""
    index = index or Index.refreshed(results)
    runs, trials, folder = index.runs, index.trials, results / FOLDER
    root = Store(results).root
    apart, apart_trials = is_demonstration(runs), is_demonstration(trials)
    return [
        *_written(Boards(runs[~apart], trials[~apart_trials], root), folder),
        *_written(Boards(runs[apart], trials[apart_trials], root), folder / DEMONSTRATION, demonstration=True),
    ]


def is_demonstration(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs say nothing about a method."""
    return (runs["data_source"] == "sample") | (runs["budget"] == "smoke")


def _written(boards: Boards, folder: Path, demonstration: bool = False) -> list[Path]:
    """The files of these boards; none without runs. Without the packages that the page needs, the tables alone."""
    if not len(boards.runs):
        return []
    texts = {f"{name}.csv": _as_csv(table) for name, table in boards.tables.items() if len(table)}
    texts |= {"leaderboard.md": markdown(boards.rows), "leaderboard.tex": latex(boards.rows)}
    files = {name: text.encode() for name, text in texts.items()}
    if page.available():
        files |= page.files(boards, demonstration)
    return [_write(content, folder / name) for name, content in files.items()]


def _as_csv(table: pd.DataFrame) -> str:
    """The table as CSV. Text that a spreadsheet would take for a formula is marked as text, by an apostrophe."""
    texts = {name: column for name, column in table.items() if pd.api.types.is_string_dtype(column)}
    formulas = {name: column.str.match(FORMULA, na=False) for name, column in texts.items()}
    marked = {str(name): texts[name].mask(found, "'" + texts[name]) for name, found in formulas.items() if found.any()}
    return table.assign(**marked).to_csv(index=False, lineterminator="\n", float_format=FLOATS)


def _write(content: bytes, path: Path) -> Path:
    """Write the file unless it holds this already."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
