"""All boards of some runs, computed; `publish.py` writes them, the page and the charts show them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import pandas as pd

from bench.leaderboard.comparisons import comparisons
from bench.leaderboard.overall import averages, overall
from bench.leaderboard.pareto import pareto
from bench.leaderboard.profiles import profiles
from bench.leaderboard.rows import OF_LOST, last_of_each_seed, lost_seeds, rows_of, without_score
from bench.leaderboard.task_sets import over_equal_tasks


@dataclass(frozen=True)
class Sources:
    """What boards are made of: complete runs and the trials behind them, and the folder that theirs lie in.

    All have a row per run with the columns of `columns.py` and `folder`, its folder below `root`.
    """

    complete: pd.DataFrame
    trials: pd.DataFrame
    root: Path
    lost: pd.DataFrame = field(default_factory=functools.partial(pd.DataFrame, columns=OF_LOST))
    """Runs that ended for good without a score, likewise, with how they ended (`status`)."""

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """The runs that count: one per row and seed."""
        return last_of_each_seed(self.complete)


@dataclass(frozen=True)
class Boards:
    """What is known of runs that count. Every table is made group by group; no group enters another's."""

    rows: pd.DataFrame
    """One row per method settings, task and group (`rows.py`), with what the comparisons say of it."""
    overall: pd.DataFrame
    """Methods over several tasks (`overall.py`)."""
    averages: pd.DataFrame
    """The benchmarks' own averages (`overall.py`)."""
    profiles: pd.DataFrame
    """Performance profiles over several tasks (`profiles.py`)."""
    comparisons: pd.DataFrame
    """Paired tests (`comparisons.py`)."""
    pareto: pd.DataFrame
    """Fronts of score and cost (`pareto.py`)."""
    lost: pd.DataFrame
    """What has no row because none of its runs ended with a score (`rows.py`)."""

    @classmethod
    def of(cls, sources: Sources) -> Boards:
        """The boards computed from nothing."""
        scored = rows_of(sources.runs)
        scored = scored.assign(lost_seeds=lost_seeds(scored, sources.lost))
        tested, rows = comparisons(scored, sources.runs, sources.root)
        several = list(over_equal_tasks(rows, sources.runs))
        lost = without_score(rows, sources.lost)
        return cls(rows, overall(several), averages(rows), profiles(several), tested, pareto(rows), lost)

    @classmethod
    def joined(cls, parts: Sequence[Boards]) -> Boards:
        """The boards of several sets of groups as one."""
        tables = ([getattr(part, table.name) for part in parts] for table in fields(cls))
        return cls(*(pd.concat(found, ignore_index=True) for found in tables))

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The tables by the name of their file: one per benchmark, then those over all tasks."""
        by_benchmark = self.rows.groupby(self.rows["task"].astype(str).str.partition("/")[0])
        over_tasks = {table.name: getattr(self, table.name) for table in fields(self) if table.name != "rows"}
        return {str(benchmark): table for benchmark, table in by_benchmark} | over_tasks
