"""Compare two methods on the same examples and seeds: `python scripts/compare.py lora adalora task=glue/rte`.

Prints a comparison for every group of runs (model, recipe, tuning, data, precision, hardware, software) that has both.
Further conditions narrow the groups: `model=minilm`, `budget=quick`. Exit codes: 0 compared, 1 nothing to compare, 2
bad input.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from rich.console import Console

from bench.commands import exit_code_of
from bench.errors import SettingsError, suggestion
from bench.leaderboard.columns import GROUP
from bench.leaderboard.comparisons import LEVEL, TOGETHER, Comparison, compared, runs_of_rows
from bench.leaderboard.index import Index
from bench.leaderboard.rows import last_of_each_seed, rows_of
from bench.records.store import Store

CONDITIONS = ("task", *GROUP)


def main() -> int:
    """Print the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="a method")
    parser.add_argument("second", help="the method that it is compared with")
    parser.add_argument("conditions", nargs="*", metavar="COLUMN=VALUE", help="such as task=glue/rte")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    arguments = parser.parse_args()
    runs = chosen_runs(arguments.results, [arguments.first, arguments.second], arguments.conditions)
    found = sentences(runs, Store(arguments.results).root, arguments.first, arguments.second)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    for text, _ in found:
        console.print(text)
    if not found:
        console.print(f"No group of runs has both {arguments.first} and {arguments.second} under these conditions.")
    return 0 if any(comparable for _, comparable in found) else 1


def chosen_runs(results: Path, methods: list[str], conditions: list[str]) -> pd.DataFrame:
    """The runs of these methods that meet the conditions. Raises SettingsError for what no run has."""
    if not results.is_dir():
        raise SettingsError(f"{results} is no folder.")
    runs = last_of_each_seed(Index.refreshed(results).runs)
    if runs.empty:
        raise SettingsError(f"{results} has no complete run; scripts/leaderboard.py merges what is published.")
    for method in methods:
        if method not in set(runs["method"]):
            raise SettingsError(f"no complete run of the method {method}.{suggestion(method, set(runs['method']))}")
    runs = runs[runs["method"].isin(methods)]
    for condition in conditions:
        column, _, value = condition.partition("=")
        if column not in CONDITIONS:
            raise SettingsError(f"{condition} is no condition.{suggestion(column, CONDITIONS)}")
        if value not in set(runs[column]):
            raise SettingsError(f"no complete run has {condition}.{suggestion(value, set(runs[column]))}")
        runs = runs[runs[column] == value]
    return runs


def sentences(runs: pd.DataFrame, root: Path, first: str, second: str) -> list[tuple[str, bool]]:
    """One text per pair of rows of one task and group, and whether they could be compared."""
    rows = rows_of(runs)
    of_row = dict(zip(rows.index, runs_of_rows(rows, runs, root), strict=True))
    found = []
    for _, members in rows.groupby(TOGETHER, sort=True):
        of_first, of_second = (members[members["method"] == method] for method in (first, second))
        for one, other in itertools.product(of_first.index, of_second.index):
            if one != other:
                comparison = compared(of_row[one], of_row[other])
                found.append((in_words(rows.loc[one], rows.loc[other], comparison), comparison is not None))
    return found


def in_words(one: pd.Series[Any], other: pd.Series[Any], comparison: Comparison | None) -> str:
    """A comparison for a person."""
    shared = ", ".join(str(one[name]) for name in GROUP)
    lines = [f"{one['task']} ({shared})", *(f"  {_scored(row)}" for row in (one, other))]
    if comparison is None:
        why = "they share no seed with predictions of the same examples, or one of them predicts a constant"
        return "\n".join([*lines, f"  not comparable: {why}\n"])
    low, high = comparison.difference_low, comparison.difference_high
    verdict = "can be told apart" if comparison.p_value <= LEVEL else "cannot be told apart"
    return "\n".join(
        [
            *lines,
            f"  difference {comparison.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}",
            f"  {comparison.test} on {comparison.examples} examples x {comparison.seeds} seeds: "
            f"p = {comparison.p_value:.3g}; at 5 % they {verdict}\n",
        ]
    )


def _scored(row: pd.Series[Any]) -> str:
    spread = "" if pd.isna(row["score_std"]) else f" ± {row['score_high'] - row['score_mean']:.2f}"
    return (
        f"{row['method']} ({row['settings_id']}): {row['metric']} {row['score_mean']:.2f}{spread}, "
        f"seeds {row['seed_list']}, {row['trainable_parameters']:,} trainable parameters"
    )


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
