"""Which methods may be compared over which tasks: those that have every one of them, and nothing averaged otherwise.

Within a group, each set of two tasks or more that some method has as its own is compared over; every method that has
these tasks, and maybe more, takes part.
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
    """A method with its settings over a set of tasks: its rows, task by task."""

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
    def lost_seeds(self) -> int:
        """Seeds without a score, over all tasks."""
        return sum(cell["lost_seeds"] for cell in self.cells)

    @property
    def trainable_parameters(self) -> int:
        """Their mean over the tasks; a method's count may follow from the data."""
        return round(sum(cell["trainable_parameters"] for cell in self.cells) / len(self.cells))


@dataclass(frozen=True)
class TaskSet:
    """Tasks, and the methods of one group that have all of them; `head` is what the group's rows share."""

    head: Mapping[str, Any]
    tasks: list[str]
    members: list[Member]

    @property
    def name(self) -> str:
        """A short name of the set of tasks: a hash, equal for equal sets everywhere."""
        return short_hash(self.tasks, NAME_LENGTH)


def over_equal_tasks(rows: pd.DataFrame, runs: pd.DataFrame) -> Iterator[TaskSet]:
    """Every set of tasks that the rows allow, group by group, the largest first."""
    scores: dict[str, list[float]] = {}
    for row, score in zip(as_list(runs["row"]), as_list(runs["score"]), strict=True):
        scores.setdefault(row, []).append(score)
    cells = rows.assign(label=labels(rows))[["row", *ROW, "label", "score_mean", "trainable_parameters", "lost_seeds"]]
    records = [cell | {"scores": scores[cell["row"]]} for cell in as_records(cells)]
    groups = together(rows, ["group"])
    for positions, head in zip(groups, shared(rows, groups, HEAD), strict=True):
        methods: dict[tuple[str, str], dict[str, Cell]] = {}
        for cell in (records[position] for position in positions):
            methods.setdefault((cell["method"], cell["settings_id"]), {})[cell["label"]] = cell
        for tasks in _own_sets(methods.values()):
            members = [
                Member(*method, [has[task] for task in tasks])
                for method, has in methods.items()
                if has.keys() >= set(tasks)
            ]
            yield TaskSet(head, tasks, members)


def labels(cells: pd.DataFrame) -> pd.Series[str]:
    """The task of each row; `@` and its data's revision, `#` and its settings follow where a group has several."""
    found, of_task = cells["task"].astype(str), cells.groupby(["group", "task"], observed=True)
    for mark, column in (("@", "data_revision"), ("#", "task_settings_id")):
        found = found.where(of_task[column].transform("nunique") == 1, found + mark + cells[column].astype(str))
    return found


def _own_sets(methods: Iterable[Mapping[str, Cell]]) -> list[list[str]]:
    """The sets of two tasks or more that some method has as its own, largest first."""
    own = {frozenset(of_method) for of_method in methods}
    return sorted((sorted(tasks) for tasks in own if len(tasks) > 1), key=lambda tasks: (-len(tasks), tasks))
