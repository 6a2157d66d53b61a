"""What two results folders of the same sweep must have in common, and what may differ."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from bench.identity import ID_LENGTH
from bench.leaderboard.publish import publish
from bench.records.record import RunRecord
from bench.records.schema import read
from bench.records.store import ADAPTER_FOLDER, HISTORY_FILE, PREDICTIONS_FILE, RECORD_FILE, Store
from bench.sweeps import sweep

TIMES = (
    "wall_seconds",
    "phase_seconds",
    "train_seconds",
    "first_step_seconds",
    "step_seconds_p10",
    "step_seconds_median",
    "step_seconds_p90",
    "step_seconds_p99",
    "seconds_to_quality",
    "al_seconds",
    "reference_step_seconds",
    "trained_latency_seconds_median",
    "trained_latency_seconds_p95",
    "inference_latency_seconds_median",
    "inference_latency_seconds_p95",
    "first_token_seconds_median",
    "first_token_seconds_p95",
)
RATES = (
    "train_samples_per_second",
    "train_tokens_per_second",
    "evaluation_samples_per_second",
    "inference_samples_per_second",
    "generated_tokens_per_second",
    "largest_batch_samples_per_second",
    "batch_samples_per_second",
    "achieved_flops_per_second",
    "model_flops_utilisation",
    "model_flops_utilisation_data_sheet",
    "pcu",
    "reference_matmul_flops_per_second",
    "reference_copy_bytes_per_second",
    "st_samples_per_second_per_parameter",
)
MEMORY = (
    "peak_memory_bytes",
    "total_peak_memory_bytes",
    "phase_peak_memory_bytes",
    "train_memory_growth_bytes",
    "largest_batch_size",
    "amu_gb",
    "amu_fraction",
    "pscp_b1_overhead",
    "pscp_b2_overhead",
    "pscp_b1_total",
)
ENERGY = (
    "train_energy_joules",
    "evaluation_energy_joules",
    "train_watt_hours_per_1000_samples",
    "evaluation_watt_hours_per_1000_samples",
    "aec_watts",
)
BOOKKEEPING = (
    "interruptions",
    "git_commit",
    "git_dirty",
    "versions",
    "hardware",
    "hostname",
    "started_at",
    "finished_at",
)
MEASURED = frozenset((*TIMES, *RATES, *MEMORY, *ENERGY, *BOOKKEEPING))
"""Columns that depend on when, where and how fast a run went. Every other one is a result and must be equal."""
MEASURED_OF_A_POINT = ("samples_per_second", "seconds")
LONGEST_VALUE = 80


@dataclass(frozen=True)
class CutRecord:
    """A finished record that lost its end: its run's folder, below the results folder, and what was left of it."""

    folder: str
    rest: bytes


def faults(calm: Path, stormy: Path, cut: Sequence[CutRecord] = ()) -> list[str]:
    """Every way in which the results folder `stormy` is not as good as `calm`, one sentence each.

    Both are results folders of one sweep; `cut` are the records in `stormy` that were damaged on purpose. Writes the
    leaderboards of both.
    """
    runs = planned(calm)
    lost = [run for run in runs if Store(stormy).finished(stormy / run) is None]
    return [
        *(f"lost: {run} has no complete record" for run in lost),
        *(f"twice: {path} is complete, too" for path in _repeated(stormy, runs)),
        *(f"not kept: what was left of the record in {record.folder}" for record in _discarded(stormy, cut)),
        *(f"left over: {path}" for path in _left_over(stormy)),
        *(f"{run}: {what}" for run in runs if run not in lost for what in _different(calm / run, stormy / run)),
        *_different_boards(calm, stormy),
    ]


def planned(results: Path) -> list[str]:
    """The folders of all runs of the sweeps that were started in a results folder, relative to it."""
    sweeps = [json.loads(path.read_text()) for path in (results / sweep.FOLDER).glob("*.json")]
    return sorted({run["folder"] for found in sweeps for run in found["runs"]})


def _repeated(results: Path, runs: Sequence[str]) -> list[Path]:
    """Folders of complete records beside those that the runs are to have."""
    found = [path.parent.relative_to(results) for path in sorted(results.rglob(RECORD_FILE))]
    return [folder for folder in found if str(folder) not in runs and Store(results).finished(results / folder)]


def _discarded(results: Path, cut: Sequence[CutRecord]) -> list[CutRecord]:
    """Cut records that were not set aside as they were."""
    kept = Counter(
        CutRecord(str(path.parent.relative_to(results)).rpartition("~")[0], path.read_bytes())
        for path in results.rglob(f"*~*/{RECORD_FILE}")
    )
    return list((Counter(cut) - kept).elements())


def _left_over(results: Path) -> Iterator[Path]:
    """Working folders, claims and half-written files."""
    for path in sorted(results.rglob("*")):
        of_run = re.match(rf"\.[0-9a-f]{{{ID_LENGTH}}}", path.name)
        if of_run or path.suffix == ".partial":
            yield path.relative_to(results)


def _different(calm: Path, stormy: Path) -> Iterator[str]:
    """How one run's folders differ."""
    ours, theirs = (asdict(_record(folder)) for folder in (calm, stormy))
    for name in ours.keys() - MEASURED:
        if ours[name] != theirs[name]:
            yield f"{name} is {_short(theirs[name])} and was {_short(ours[name])}"
    files, others = (sorted(path.name for path in folder.iterdir()) for folder in (calm, stormy))
    if files != others:
        yield f"its folder holds {others} and held {files}"
    if _history(calm) != _history(stormy):
        yield f"{HISTORY_FILE} has other points"
    for path in sorted(calm.glob(f"{ADAPTER_FOLDER}/*.safetensors")):
        if not _same_bytes(path, stormy / ADAPTER_FOLDER / path.name):
            yield f"{ADAPTER_FOLDER}/{path.name} has other bytes"
    if not _same_rows(calm / PREDICTIONS_FILE, stormy / PREDICTIONS_FILE):
        yield f"{PREDICTIONS_FILE} has other rows"


def _record(folder: Path) -> RunRecord:
    return read(json.loads((folder / RECORD_FILE).read_text()))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _history(folder: Path) -> list[dict[str, Any]] | str:
    """The points of the training curve without what was measured; the text where it is damaged."""
    text = (folder / HISTORY_FILE).read_text()
    try:
        points = [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return text
    return [{name: value for name, value in point.items() if name not in MEASURED_OF_A_POINT} for point in points]


def _same_bytes(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()


def _same_rows(one: Path, other: Path) -> bool:
    return other.exists() and pq.read_table(one).equals(pq.read_table(other))


def _different_boards(calm: Path, stormy: Path) -> Iterator[str]:
    """How the leaderboards differ, measured columns apart."""
    ours, theirs = (_tables(results) for results in (calm, stormy))
    if ours.keys() != theirs.keys():
        yield f"the boards are {sorted(map(str, theirs))} and were {sorted(map(str, ours))}"
    for name in sorted(ours.keys() & theirs.keys()):
        if not _results(ours[name]).equals(_results(theirs[name])):
            yield f"{name} has other rows"


def _tables(results: Path) -> dict[Path, Path]:
    """The tables by their place, but for the fronts, whose rows follow from measured costs as other files do."""
    tables = [path for path in publish(results) if path.suffix == ".csv" and path.stem != "pareto"]
    return {path.relative_to(results): path for path in tables}


def _results(board: Path) -> pd.DataFrame:
    """A board without its measured columns."""
    table = pd.read_csv(board)
    of_seeds = re.compile("_(mean|std)$")
    return table[[name for name in table.columns if of_seeds.sub("", name) not in MEASURED]]
