"""The rows of the page: those of the boards, one per method over all tasks, and what lies behind each of them.

An entry is one flat dictionary of plain values. The table, the plots on the page and the plots in files read the same
entries, so that they cannot disagree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.leaderboard.boards import Boards, Sources
from bench.leaderboard.columns import AVERAGED, GROUP
from bench.leaderboard.comparisons import TOGETHER
from bench.leaderboard.page.details import Details, details_of, mean_of
from bench.leaderboard.page.known import family_of
from bench.leaderboard.page.over_tasks import over_tasks
from bench.leaderboard.rows import method_labels, together
from bench.leaderboard.task_sets import labels
from bench.stats.trade_offs import pareto_front

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMIT = 1500
"""At most this many rows stand on a page, the best of each task and group first; the CSV files have all of them."""
GROUPS = 50
"""Of more groups only the largest stand on a page."""
DIGITS = 6
"""Significant digits of a number that is not whole, as in the CSV files."""
BEST, ALIKE, BELOW = "best", "alike", "below"
"""How a row stands against the best of its task: itself, not to be told from it, or below it."""
KEPT = (
    *("group", "task", "data_revision", "over_tasks", "method", "label", "settings_id", "metric", "rank", "of"),
    *("score_mean", "score_low", "score_high", "score_std", "seeds", "seed_list", "standard_error_over_examples"),
    *("lost_seeds", "learning_rate", *AVERAGED, "on_front"),
    *("mean_rank", "friedman_p_value", "critical_difference", "win_rate"),
)
"""Columns that an entry takes over."""

Entry = dict[str, Any]


def entries(boards: Boards, sources: Sources) -> list[Entry]:
    """The rows of the page: groups by size, in each the rows over all tasks first, then task by task, best first."""
    folders = _first_folders(boards, sources)
    trials = {
        folder.rpartition("/")[2]: (rate, score)  # a run's folder has the name of its id
        for folder, rate, score in sources.trials[["folder", "learning_rate", "score"]].itertuples(index=False)
    }

    @functools.cache
    def details(index: int) -> Details:
        return details_of(folders[index], trials)

    rows = _table(boards, sources).to_dict("records")
    return [_entry(row, mean_of([details(index) for index in row["members"]])) for row in rows]


def groups(boards: Boards, shown: Sequence[Entry]) -> list[dict[str, Any]]:
    """The groups of these entries in their order: name, title, size on the boards, what has no row, facts."""
    counts = boards.rows["group"].value_counts()
    first = boards.rows.drop_duplicates("group")
    facts = dict(zip(first["group"], first[GROUP].astype(str).to_dict("records"), strict=True))
    lost = boards.lost.assign(task=labels(boards.lost))[["group", "task", "method", "seed_list", "endings"]]
    return [
        {
            "name": name,
            "title": _title(facts[name]),
            "rows": int(counts[name]),
            "lost": lost[lost["group"] == name].drop(columns="group").astype(str).to_dict("records"),
            **facts[name],
        }
        for name in dict.fromkeys(entry["group"] for entry in shown)
    ]


def _title(facts: Mapping[Any, Any]) -> str:
    """What tells a group from another at a glance."""
    data = f"{facts['data_source']} data"
    return ", ".join((facts["model"], facts["budget"], facts["tuning"], data, facts["precision"], facts["hardware"]))


def _table(boards: Boards, sources: Sources) -> pd.DataFrame:
    """The rows that a page shows, in its order, each with the index of the boards' rows that it stands for."""
    sizes = boards.rows["group"].value_counts()
    largest = sorted(sizes.index, key=lambda name: (-sizes[name], name))[:GROUPS]
    own = boards.rows.assign(
        task=labels(boards.rows),
        members=pd.Series({index: [index] for index in boards.rows.index}),
        best=boards.rows["rank"] == 1,
        per_task=True,
    )
    own = own[own["group"].isin(largest)]
    table = pd.concat([over_tasks(boards, sources.runs, largest).assign(per_task=False), own], ignore_index=True)
    table = table.assign(
        of=table.groupby(TOGETHER)["rank"].transform("size"),
        on_front=_on_front(table),
        over_tasks=~table["per_task"].astype(bool),
        label=method_labels(table),
        order=table["group"].map({name: place for place, name in enumerate(largest)}),
    )
    kept = table.sort_values("rank", kind="stable").head(LIMIT)
    return kept.sort_values(["order", "per_task", "task", "data_revision", "rank", "label"])


def _on_front(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether no row of the same task and group has as few trainable parameters, as high a score, and one better."""
    parameters = table["trainable_parameters"].to_numpy(dtype=float, na_value=np.nan)
    scores = table["score_mean"].to_numpy(dtype=float)
    found = np.zeros(len(table), dtype=bool)
    for members in together(table, TOGETHER):
        found[members] = pareto_front(parameters[members], scores[members])
    return found


def _first_folders(boards: Boards, sources: Sources) -> list[Path]:
    """The folder of each row's run with the first seed, in the order of the rows."""
    first = sources.runs.sort_values("seed", kind="stable").drop_duplicates("row")
    folders = dict(zip(first["row"], first["folder"], strict=True))
    return [sources.root / folders[row] for row in boards.rows["row"]]


def _entry(row: Mapping[Any, Any], details: Details) -> Entry:
    own = {name: row.get(name) for name in KEPT}
    profile = {name: found if isinstance(found := row.get(name), list) else [] for name in ("thresholds", "shares")}
    added = {"family": family_of(str(row["method"])), "standing": _standing(row), **profile}
    return {name: plain(value) for name, value in (own | added | vars(details)).items()}


def _standing(row: Mapping[Any, Any]) -> str | None:
    """None where no paired test was made."""
    if row["best"]:
        return BEST
    separable = row["separable_from_best"]
    return None if pd.isna(separable) else BELOW if separable else ALIKE


def plain(value: Any) -> Any:
    """The value as JSON can hold it: Python's own numbers, rounded unless they are whole; None for what is missing."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    if pd.isna(value) or not np.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.{DIGITS}g}")
