"""Build the leaderboard from the records: `python scripts/leaderboard.py [--results results]`.

Runs that are published in `published/` of the results folder stand on it beside one's own.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.markdown import Markdown

from bench.commands import exit_code_of
from bench.errors import UserError
from bench.leaderboard import page
from bench.leaderboard.index import Index
from bench.leaderboard.publish import FOLDER, publish
from bench.records.bundle import PUBLISHED, is_bundle, unpack

REPORTED = 10
"""At most this many unreadable records are named."""
ROWS = 40
"""At most this many rows of a board are shown; the file has all."""
HEADER = 2
"""Lines of a table before its rows."""


def main() -> int:
    """Write the boards and show them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    results = parser.parse_args().results
    if not results.is_dir():
        raise UserError(f"{results} is no folder.")
    merge_published(results)
    index = Index.refreshed(results)
    report_unreadable(index)
    files = publish(results, index)
    console = Console(soft_wrap=True, highlight=False)
    for file in files:
        if file.name == "leaderboard.md":
            console.print(Markdown(shown(file)))
    console.print(f"{len(files)} files in {results / FOLDER}" if files else f"No complete record in {results}.")
    if files and not page.available():
        print(page.NEEDED, file=sys.stderr)
    return 0


def merge_published(results: Path) -> None:
    """Take in the runs of the bundle in the results folder, if there is one, as far as they are not there yet."""
    if is_bundle(results / PUBLISHED) and (new := unpack(results / PUBLISHED, results)):
        print(f"{new} published runs merged from {results / PUBLISHED}", file=sys.stderr)


def report_unreadable(index: Index) -> None:
    """Say on standard error which records do not count, and why."""
    unreadable = index.unreadable
    for path, why in unreadable[:REPORTED]:
        print(f"not counted: {path}: {why}", file=sys.stderr)
    if len(unreadable) > REPORTED:
        print(f"not counted: {len(unreadable) - REPORTED} more records", file=sys.stderr)


def shown(file: Path) -> str:
    """The boards of a Markdown file, of each the first rows."""
    parts: list[str] = []
    for in_table, lines in itertools.groupby(file.read_text("utf-8").splitlines(), lambda line: line.startswith("|")):
        block = list(lines)
        parts += block[: HEADER + ROWS] if in_table else block
        if in_table and len(block) > HEADER + ROWS:
            parts += ["", f"{len(block) - HEADER - ROWS} more rows in {file}"]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
