"""The boards as files: tables, documents, the page and its plots."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

import pandas as pd

from bench.leaderboard import page
from bench.leaderboard.boards import Boards, Sources
from bench.leaderboard.documents import LATEX_FILE, LEGEND_IN_LATEX, LEGEND_IN_MARKDOWN, MARKDOWN_FILE
from bench.leaderboard.files import joined, write
from bench.leaderboard.index import Index
from bench.leaderboard.parts import Part, parts
from bench.records.store import Store

FOLDER = "leaderboard"
ENDINGS = (".csv", ".md", ".tex", ".html", ".svg", ".png")
DEMONSTRATION = "demonstration"
"""Folder of the runs on built-in samples and of two steps, which say nothing about a method."""


def publish(results: Path, index: Index | None = None, pages: bool = True) -> list[Path]:
    """Write all boards of the records under `results`; returns the files. `index` spares looking for the records.

    Without `pages`, and without the packages that these need, the tables and documents alone.
    """
    index = index or Index.refreshed(results)
    found, groups = parts(results, index), index.groups
    pages, files = pages and page.available(), dict[Path, bytes]()
    for demonstration, folder in ((False, results / FOLDER), (True, results / FOLDER / DEMONSTRATION)):
        chosen = [found[group] for group in groups["group"][is_demonstration(groups) == demonstration]]
        written = _tables(chosen) if chosen else {}
        if pages and chosen:
            runs, trials = (table[is_demonstration(table) == demonstration] for table in (index.runs, index.trials))
            boards = Boards.joined([part.boards for part in chosen])
            written |= page.files(boards, Sources(runs, trials, Store(results).root), demonstration)
        files |= {folder / name: content for name, content in written.items()}
    _remove_others(results / FOLDER, files)
    return [write(content, path) for path, content in files.items()]


def _remove_others(folder: Path, files: Container[Path]) -> None:
    """Remove what an earlier build has left of boards that do not follow from the records any more."""
    for path in folder.rglob("*"):
        if path.suffix in ENDINGS and path not in files:
            path.unlink(missing_ok=True)


def is_demonstration(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs, or groups of runs, say nothing about a method: all or none of a group."""
    return (runs["data_source"] == "sample") | (runs["budget"] == "smoke")


def _tables(chosen: Sequence[Part]) -> dict[str, bytes]:
    """The tables and documents of these groups, one group after the other, by the name of their file."""
    names = dict.fromkeys(name for part in chosen for name in part.texts)
    texts = {name: [part.texts[name] for part in chosen if name in part.texts] for name in names}
    documents = {
        MARKDOWN_FILE: "\n".join([LEGEND_IN_MARKDOWN, *texts.pop(MARKDOWN_FILE)]),
        LATEX_FILE: "".join([LEGEND_IN_LATEX, *texts.pop(LATEX_FILE)]),
    }
    tables = {name: joined(of_groups) for name, of_groups in texts.items()}
    return {name: text.encode() for name, text in (tables | documents).items()}
