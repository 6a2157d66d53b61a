"""All boards of some runs, computed; `publish.py` writes them, the page and the charts show them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.leaderboard.comparisons import comparisons
from bench.leaderboard.overall import averages, overall
from bench.leaderboard.pareto import pareto
from bench.leaderboard.profiles import profiles
from bench.leaderboard.rows import rows_of


@dataclass(frozen=True)
class Boards:
    """What is known of runs that count, and of the trials behind them.

    `runs` and `trials` have a row per run with the columns of `columns.py` and its folder below `root`.
    """

    runs: pd.DataFrame
    trials: pd.DataFrame
    root: Path

    @functools.cached_property
    def _tested(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return comparisons(rows_of(self.runs), self.runs, self.root)

    @property
    def rows(self) -> pd.DataFrame:
        """One row per method settings, task and group (`rows.py`), with what the comparisons say of it."""
        return self._tested[1]

    @property
    def comparisons(self) -> pd.DataFrame:
        """Paired tests (`comparisons.py`)."""
        return self._tested[0]

    @functools.cached_property
    def overall(self) -> pd.DataFrame:
        """Methods over several tasks (`overall.py`)."""
        return overall(self.rows, self.runs)

    @functools.cached_property
    def averages(self) -> pd.DataFrame:
        """The benchmarks' own averages (`overall.py`)."""
        return averages(self.rows)

    @functools.cached_property
    def profiles(self) -> pd.DataFrame:
        """Performance profiles over several tasks (`profiles.py`)."""
        return profiles(self.rows, self.runs)

    @functools.cached_property
    def pareto(self) -> pd.DataFrame:
        """Fronts of score and cost (`pareto.py`)."""
        return pareto(self.rows)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the name of their file: one per benchmark, then those over all tasks."""
        by_benchmark = self.rows.groupby(self.rows["task"].astype(str).str.partition("/")[0])
        return {
            **{str(benchmark): table for benchmark, table in by_benchmark},
            "overall": self.overall,
            "averages": self.averages,
            "profiles": self.profiles,
            "comparisons": self.comparisons,
            "pareto": self.pareto,
        }
