"""Which methods may be compared over which tasks: those that have every one of them, and nothing averaged otherwise.

Within a group, each set of two tasks or more that some method has as its own is a comparison; every method that has
these tasks, and maybe more, takes part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.leaderboard.columns import GROUP, ROW, short_hash
from bench.leaderboard.rows import as_list, as_records, shared, together

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NAME_LENGTH = 6
HEAD = ["group", *GROUP]
"""What all rows of a group share."""
Cell = Mapping[Any, Any]
"""A row of the board with the list `scores` of its runs."""


@dataclass(frozen=True)
class Member:
    """A method with its settings in a comparison: its rows, task by task."""

    method: str
    settings_id: str
    cells: list[Cell]

    @property
    def means(self) -> list[float]:
        """The mean score on each task, in percent."""
        return [cell["score_mean"] for cell in self.cells]

    @property
    def runs(self) -> NDArray[np.float64] | None:
        """Scores of shape (seeds, tasks); None where the tasks have different numbers of seeds."""
        scores = [cell["scores"] for cell in self.cells]
        return np.array(scores).T if len(set(map(len, scores))) == 1 else None

    @property
    def seeds(self) -> int:
        """Runs of the task that has fewest."""
        return min(len(cell["scores"]) for cell in self.cells)

    @property
    def trainable_parameters(self) -> int:
        """Those on the first task."""
        return int(self.cells[0]["trainable_parameters"])


@dataclass(frozen=True)
class Comparison:
    """Methods of one group over tasks that all of them have; `head` is what the group's rows share."""

    head: Mapping[str, Any]
    tasks: list[str]
    members: list[Member]

    @property
    def task_set(self) -> str:
        """A short name of the set of tasks: a hash, equal for equal sets everywhere."""
        return short_hash(self.tasks, NAME_LENGTH)


def over_equal_tasks(rows: pd.DataFrame, runs: pd.DataFrame) -> Iterator[Comparison]:
    """Every comparison that the rows allow, group by group, the largest set of tasks first."""
    scores: dict[str, list[float]] = {}
    for row, score in zip(as_list(runs["row"]), as_list(runs["score"]), strict=True):
        scores.setdefault(row, []).append(score)
    cells = rows.assign(label=_labels(rows))[["row", *ROW, "label", "score_mean", "trainable_parameters"]]
    records = [cell | {"scores": scores[cell["row"]]} for cell in as_records(cells)]
    groups = together(rows, ["group"])
    for positions, head in zip(groups, shared(rows, groups, HEAD), strict=True):
        methods: dict[tuple[str, str], dict[str, Cell]] = {}
        for cell in (records[position] for position in positions):
            methods.setdefault((cell["method"], cell["settings_id"]), {})[cell["label"]] = cell
        for tasks in _task_sets(methods.values()):
            members = [
                Member(*method, [has[task] for task in tasks])
                for method, has in methods.items()
                if has.keys() >= set(tasks)
            ]
            yield Comparison(head, tasks, members)


def _labels(cells: pd.DataFrame) -> pd.Series[str]:
    """The task of each row, with its data's revision where a group has several."""
    revisions = cells.groupby(["group", "task"], observed=True)["data_revision"].transform("nunique")
    tasks = cells["task"].astype(str)
    return tasks.where(revisions == 1, tasks + "@" + cells["data_revision"].astype(str))


def _task_sets(methods: Iterable[Mapping[str, Cell]]) -> list[list[str]]:
    """The sets of two tasks or more that some method has as its own, largest first."""
    own = {frozenset(of_method) for of_method in methods}
    return sorted((sorted(tasks) for tasks in own if len(tasks) > 1), key=lambda tasks: (-len(tasks), tasks))
