"""Performance profiles: which share of a method's runs, over seeds and tasks, scores above each threshold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.leaderboard.columns import ROW
from bench.leaderboard.task_sets import Member, TaskSet
from bench.stats.aggregates import performance_profile

if TYPE_CHECKING:
    from numpy.typing import NDArray

THRESHOLDS = 41
PROFILES = ["group", "task_set", *ROW, "threshold", "share", "share_low", "share_high"]


def profiles(task_sets: Iterable[TaskSet]) -> pd.DataFrame:
    """One row per set of several tasks, method and threshold, in percent; shares lie between 0 and 1.

    Agarwal et al. 2021 (arXiv:2108.13264), section 4.2, with pointwise 95 % bands where there are two seeds or more.
    The thresholds of a set lie evenly from below its lowest score to its highest. Methods whose tasks have
    different numbers of seeds have no profile.
    """
    found: list[dict[str, Any]] = []
    for task_set in task_sets:
        members = [member for member in task_set.members if member.runs is not None]
        if members:
            head = {"group": task_set.head["group"], "task_set": task_set.name}
            levels = _thresholds(members)
            found += [head | row for member in members for row in _of_member(member, levels)]
    return pd.DataFrame(found, columns=PROFILES)


def _thresholds(members: Sequence[Member]) -> NDArray[np.float64]:
    scores = np.concatenate([np.ravel(member.runs) for member in members if member.runs is not None])
    return np.linspace(np.floor(scores.min()) - 1, scores.max(), THRESHOLDS)


def _of_member(member: Member, levels: NDArray[np.float64]) -> list[dict[str, Any]]:
    assert member.runs is not None
    found = performance_profile(member.runs, levels)
    nothing = [None] * len(levels)
    low, high = (nothing if band is None else band.tolist() for band in (found.low, found.high))
    columns = zip(levels.tolist(), found.share.tolist(), low, high, strict=True)
    return [dict(zip(PROFILES[2:], (member.method, member.settings_id, *values), strict=True)) for values in columns]
