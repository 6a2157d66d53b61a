"""Build the published leaderboard from `results/published/` alone: `python scripts/publish_board.py [--check]`.

Writes `results/published/leaderboard/` and, between the marks in the README, the top of the largest board. `--check`
writes nothing; it exits with 1 if a table, the page or the README does not follow from the published runs byte for
byte, and names it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import pandas as pd

from bench.commands import exit_code_of
from bench.errors import UserError
from bench.leaderboard import page
from bench.leaderboard.boards import Boards
from bench.leaderboard.comparisons import LEVEL, TOGETHER
from bench.leaderboard.documents import BEST, LOST_SEEDS, NOT_SEPARABLE, UNTESTED, in_markdown, score
from bench.leaderboard.index import Index
from bench.leaderboard.pareto import MOST_NOISE, noise
from bench.leaderboard.parts import parts
from bench.leaderboard.publish import FOLDER, publish
from bench.leaderboard.rows import as_records, method_labels
from bench.records.bundle import PUBLISHED, unpack
from bench.records.summary import MEBIBYTE

BUNDLE = ROOT / "results" / PUBLISHED
BOARDS = BUNDLE / FOLDER
README = ROOT / "README.md"
CHECKED = (".csv", ".md", ".tex", ".html")
"""Endings of the files that follow from the records byte for byte, with the libraries that `constraints.txt` names; how
a plot is drawn depends on fonts as well."""
BEGIN, END = "<!-- published board: begin -->\n", "<!-- published board: end -->\n"
TOP = 10
WORDS = {
    "trainable_parameters": "trainable parameters",
    "memory_bytes": "memory",
    "train_seconds": "training time",
    "train_energy_joules": "training energy",
    "inference_latency_seconds_median": "latency",
}
"""Costs as they read in a sentence."""


@dataclass(frozen=True)
class Published:
    """What follows from the published runs: the files of the leaderboard by name, and the README's block."""

    files: Mapping[str, bytes]
    block: str

    @classmethod
    def of(cls, bundle: Path) -> Published:
        """Built in a folder of its own. Raises UserError and RecordError for a bundle that is none or damaged."""
        with tempfile.TemporaryDirectory() as name:
            results = Path(name)
            unpack(bundle, results)
            index = Index.refreshed(results)
            files = publish(results, index)
            contents = {file.relative_to(results / FOLDER).as_posix(): file.read_bytes() for file in files}
            boards = Boards.joined([part.boards for part in parts(results, index).values()])
        return cls(contents, block(boards))

    @property
    def readme(self) -> str:
        """The README with this block."""
        before, _, rest = README.read_text("utf-8").partition(BEGIN)
        return before + BEGIN + self.block + END + rest.partition(END)[2]

    @property
    def stale(self) -> list[Path]:
        """The files that are there, or should be, and do not follow from the published runs."""
        there = {path.name for path in BOARDS.glob("*") if path.suffix in CHECKED}
        expected = {name for name in self.files if Path(name).suffix in CHECKED}
        paths = {BOARDS / name: self.files.get(name) for name in sorted(there | expected)}
        paths[README] = self.readme.encode()
        return [path for path, content in paths.items() if not path.is_file() or path.read_bytes() != content]

    def write(self) -> None:
        """Put everything in its place, and nothing else there."""
        shutil.rmtree(BOARDS, ignore_errors=True)
        for name, content in self.files.items():
            path = BOARDS / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        README.write_text(self.readme, "utf-8")


def block(boards: Boards) -> str:
    """The top of the board with most rows, as Markdown, with its plot; then what its methods do over several tasks."""
    rows = boards.rows.assign(label=method_labels(boards.rows))
    largest = rows.iloc[rows.groupby(TOGETHER)["row"].transform("size").argmax()]
    board = as_records(_of_board(rows, largest))
    first = board[0]
    lines = [
        f"`{first['task']}` on `{first['model']}`, {first['metric']}, {len(board)} rows, budget `{first['budget']}`, "
        f"tuning: {first['tuning']}, {first['precision']} on {in_markdown(first['hardware'])}:",
        "",
        "| rank | method | score | trainable parameters | memory | training time |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
        *map(_line, board[:TOP]),
        "",
        f"Mean score in percent ± half of its 95 % interval over {_seeds(board)} seeds; {BEST} is the best. "
        f"{_separation(board)}{_losses(board)}"
        f"{_smallest(_of_board(boards.pareto, largest), board)}{_without_front(_of_board(rows, largest))}"
        f"{_without_score(_of_board(boards.lost, largest), board)}",
        "",
        f"![Score against trainable parameters, with the Pareto front]({_plot(first['group'])})",
        *_over_tasks(boards.overall[boards.overall["group"] == first["group"]]),
    ]
    return "\n".join(lines) + "\n"


def _of_board(table: pd.DataFrame, row: pd.Series[Any]) -> pd.DataFrame:
    """What is of the same board as a row."""
    return table[(table[TOGETHER] == row[TOGETHER]).all(axis=1)]


def _line(row: Mapping[str, Any]) -> str:
    cells = [
        str(row["rank"]),
        f"`{row['label']}`",
        score(row),
        f"{row['trainable_parameters']:,}",
        f"{row['memory_bytes'] / MEBIBYTE:,.0f} MiB",
        f"{row['train_seconds']:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _separation(board: Sequence[Mapping[str, Any]]) -> str:
    """How many rows a paired test tells from the best."""
    others = [row["separable_from_best"] for row in board if row["rank"] != 1]
    untested = sum(map(pd.isna, others))
    if untested:
        return f"{untested} of them could not be tested against the best ({UNTESTED})."
    told = sum(map(bool, others))
    return (
        f"A paired test on the same examples and seeds, which allows for the number of methods, tells {told} of the "
        f"other {len(others)} from the best; those that it does not tell ({NOT_SEPARABLE}) are not thereby as good."
    )


def _smallest(fronts: pd.DataFrame, board: Sequence[Mapping[str, Any]]) -> str:
    """The row with fewest parameters of those within one standard error of the best, where that error is known."""
    chosen = fronts[(fronts["cost"] == "trainable_parameters") & fronts["cheapest_within_one_standard_error"]]
    found = set(zip(chosen["method"], chosen["settings_id"], strict=True))
    return "".join(
        f" The smallest within one standard error of the best, `{row['label']}`, trains "
        f"{row['trainable_parameters']:,} parameters."
        for row in board
        if (row["method"], row["settings_id"]) in found
    )


def _losses(board: Sequence[Mapping[str, Any]]) -> str:
    """What the mark of lost seeds means, where a row has it."""
    return (
        f" Of rows with {LOST_SEEDS} further seeds ended without a score."
        if any(row["lost_seeds"] for row in board)
        else ""
    )


def _without_front(rows: pd.DataFrame) -> str:
    """The costs that differ too much between seeds of one method to be compared; nothing where there are none."""
    unfit = [f"{WORDS[cost]} ({share:.0%})" for cost, share in noise(rows).items() if share > MOST_NOISE]
    if not unfit:
        return ""
    return f" Between seeds of one method, {' and '.join(unfit)} differ too much to form a front."


def _over_tasks(overall: pd.DataFrame) -> list[str]:
    """The best methods over the set of tasks that covers most results, as lines; none where there is one task only."""
    if not len(overall):
        return []
    chosen = as_records(overall[overall["task_set"] == overall.groupby("task_set")["task_count"].sum().idxmax()])
    tasks, first = str(chosen[0]["tasks"]).split(), chosen[0]
    lines = [
        f"| {row['rank']} | `{row['method']}` | {row['mean_score']:.1f} | {row['mean_rank']:.1f} | "
        f"{row['trainable_parameters']:,} |"
        for row in chosen[:TOP]
    ]
    return [
        "",
        f"Over {', '.join(f'`{task}`' for task in tasks)}, the {len(chosen)} methods that have all of them:",
        "",
        "| rank | method | mean score | mean rank | trainable parameters |",
        "| ---: | --- | ---: | ---: | ---: |",
        *lines,
        "",
        _differences(first),
    ]


def _differences(row: Mapping[str, Any]) -> str:
    """What the tests over several tasks say; they are the same for all rows."""
    p_value, apart = row["friedman_p_value"], row["critical_difference"]
    if pd.isna(p_value) or p_value > LEVEL:
        return "Friedman's test does not find that these methods differ over these tasks."
    return f"Mean ranks differ where they lie {apart:.1f} or more apart (Friedman's and Nemenyi's tests at 5 %)."


def _without_score(lost: pd.DataFrame, board: Sequence[Mapping[str, Any]]) -> str:
    """The methods of which no run ended with a score; nothing where there are none."""
    methods = sorted(set(lost["method"]) - {row["method"] for row in board})
    return f" No run of {', '.join(f'`{method}`' for method in methods)} ended with a score." if methods else ""


def _seeds(board: Sequence[Mapping[str, Any]]) -> str:
    """How many seeds the rows have: a number, or the least and the greatest."""
    least, greatest = (of(row["seeds"] for row in board) for of in (min, max))
    return str(least) if least == greatest else f"{least} to {greatest}"


def _plot(group: str) -> str:
    return f"{BOARDS.relative_to(README.parent)}/{page.PLOTS}/{group}/scores.png"


def main() -> int:
    """Write the leaderboard, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is not up to date")
    check = parser.parse_args().check
    if not page.available():
        raise UserError(page.NEEDED)
    published = Published.of(BUNDLE)
    if not check:
        published.write()
        print(f"{len(published.files)} files in {BOARDS}, and {README}")
    stale = published.stale
    for path in stale:
        print(f"{path} does not follow from the published runs: python scripts/publish_board.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
