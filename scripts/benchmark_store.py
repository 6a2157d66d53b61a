"""How the store of records works with many of them: `python scripts/benchmark_store.py [--sizes 1000,10000]`.

Writes synthetic records of realistic size into a temporary folder, which is removed at the end. Measured per number of
records, each in a process of its own and without its start and imports: which of 10,000 run folders have no complete
record, with and without an index; every board from nothing, and then the page and its plots; every board again after
100 records came, to one group of runs as from a sweep over one model, and spread over all twenty groups. Memory is the
peak of the resident set of the process that builds everything, libraries included; those that help it with many records
come on top with theirs, none with more. The records have just been written, so the system reads them from memory; a
cold disk adds its own time.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

sys.path[0] = str(Path(__file__).resolve().parents[1])

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.commands import exit_code_of
from bench.leaderboard import parts
from bench.leaderboard import publish as leaderboard
from bench.leaderboard.index import INDEX_FILE, Index
from bench.leaderboard.publish import publish
from bench.measure import memory
from bench.records.record import SCHEMA_VERSION, RunRecord
from bench.records.schema import TYPES
from bench.records.store import RECORD_FILE, Store
from scripts.benchmarking import whole_number

NEW = 100
ASKED = 10_000
SIZES = (1_000, 10_000, 100_000)
TASKS = [f"{benchmark}/task_{number}" for benchmark in ("glue", "superglue", "vtab", "images") for number in range(10)]
METHODS = [f"method_{number:02d}" for number in range(20)]
MODELS = [f"model_{number:02d}" for number in range(20)]
SEEDS = range(5)
TEMPLATES = 97
ROOM = NEW * (len(MODELS) + 1)
"""Records among which `NEW` of one group are found, and `NEW` more of all."""
COLUMNS = (
    "records",
    "missing, no index",
    "missing",
    "boards from nothing",
    "page and plots",
    "peak memory",
    f"boards after {NEW} new",
    "in every group",
)


def synthetic(number: int) -> RunRecord:
    """Record `number` of an endless grid over seeds, models, methods, tasks and, beyond these, settings."""
    rest, seed = divmod(number, len(SEEDS))
    rest, model = divmod(rest, len(MODELS))
    rest, method = divmod(rest, len(METHODS))
    settings, task = divmod(rest, len(TASKS))
    draw = random.Random(number)
    return replace(
        template(number % TEMPLATES),
        run_id=f"{draw.getrandbits(64):016x}",
        task=TASKS[task],
        method=METHODS[method],
        model=MODELS[model],
        seed=SEEDS[seed],
        settings_id=f"{settings:012x}",
        score=100 * draw.random(),
        trainable_parameters=10_000 * (1 + method),
    )


@functools.cache
def template(number: int) -> RunRecord:
    """A complete record of a full run with something in every column."""
    draw = random.Random(number)
    values = {column.name: _value(TYPES[column.name], draw) for column in fields(RunRecord)}
    of_every_record = {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        "error": None,
        "budget": "full",
        "data_source": "hub",
        "data_revision": "0" * 40,
        "data_subset": None,
        "held_out": False,
        "tuning": "none",
        "recipe_id": "0" * 8,
        "processes": 1,
        "hardware": {"device_name": "a GPU"},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "precision": "bf16",
        "device": "cuda",
        "metric": "accuracy",
        "head_parameters": 1538,
        "model_repository": None,
        "model_revision": None,
        "model_sha256": None,
        "inference_parameters": 22_000_000,
    }
    return RunRecord(**values | of_every_record)


def _value(kind: Any, draw: random.Random) -> Any:
    """Something of a column's type."""
    inner = get_args(kind)
    if get_origin(kind) is dict:
        return {f"entry_{number}": _value(inner[1], draw) for number in range(9)}
    if get_origin(kind) is list:
        return [_value(inner[0], draw) for _ in range(2)]
    simple: dict[Any, Callable[[], Any]] = {
        str: lambda: f"{draw.getrandbits(80):020x}",
        int: lambda: draw.randrange(10**10),
        float: lambda: 100 * draw.random(),
        bool: lambda: draw.random() < 0.5,
    }
    return simple.get(inner[0] if inner else kind, simple[float])()


def write(results: Path, numbers: Sequence[int]) -> None:
    """Write the records of these numbers, and wait until the disk has them all."""
    for number in track(numbers, f"writing {len(numbers):,} records", transient=True):
        record = synthetic(number)
        folder = Store(results).root / record.task / record.model / record.method / record.run_id
        folder.mkdir(parents=True)
        (folder / RECORD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
    os.sync()


@dataclass(frozen=True)
class Measured:
    """Duration of a job, and the peak of the process that did it."""

    seconds: float
    peak_bytes: int


def timed(job: Callable[..., None], *arguments: Any) -> Measured:
    """Do the job in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_timed, job, *arguments).result()


def _timed(job: Callable[..., None], *arguments: Any) -> Measured:
    start = time.perf_counter()
    job(*arguments)
    return Measured(time.perf_counter() - start, memory.peak("cpu").get("resident", 0))


def look_for_missing(results: Path, folders: list[Path], expected: int) -> None:
    """Ask which folders have no complete record, and check the number of them."""
    missing = Index.refreshed(results).missing(folders)
    assert len(missing) == expected, f"{len(missing)} are missing, not {expected}"


def build(results: Path, pages: bool = False) -> None:
    """Write every board, or the page and its plots of boards that are known."""
    assert publish(results, pages=pages)


def measured(results: Path, size: int, following: range) -> list[str]:
    """The row of a results folder that holds `size` records; it has twice `NEW` of the `following` afterwards."""
    there = [file.parent for file in itertools.islice(Store(results).root.rglob(RECORD_FILE), ASKED - NEW)]
    asked = (results, [*there, *(there[0].with_name(f"absent-{number}") for number in range(NEW))], NEW)
    _forget(results)
    without_index, with_index = timed(look_for_missing, *asked), timed(look_for_missing, *asked)
    _forget(results)
    from_nothing, page = timed(build, results), timed(build, results, True)
    one_group = [number for number in following if synthetic(number).model == MODELS[0]][:NEW]
    write(results, one_group)
    after_one = timed(build, results)
    write(results, following[-NEW:])
    after_all = timed(build, results)
    seconds = [f"{job.seconds:.2f} s" for job in (without_index, with_index, from_nothing, page, after_one, after_all)]
    peak = max(from_nothing.peak_bytes, page.peak_bytes)
    return [f"{size:,}", *seconds[:4], f"{peak / 2**20:,.0f} MiB", *seconds[4:]]


def _forget(results: Path) -> None:
    (results / INDEX_FILE).unlink(missing_ok=True)
    for folder in (leaderboard.FOLDER, parts.FOLDER):
        shutil.rmtree(results / folder, ignore_errors=True)


def sizes(text: str) -> list[int]:
    """Numbers of records. Raises argparse.ArgumentTypeError."""
    return [whole_number(size) for size in text.split(",")]


def main() -> int:
    """Write records up to each size and measure there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=sizes, default=SIZES, help="numbers of records, separated by commas")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    arguments = parser.parse_args()
    table = Table(*COLUMNS, title="the store of records", title_justify="left")
    written, number = 0, 0
    with tempfile.TemporaryDirectory(prefix="parsimony-store-", dir=arguments.folder) as folder:
        results = Path(folder)
        for size in sorted(arguments.sizes):
            following = number + size - written
            write(results, range(number, following))
            number = following + ROOM
            table.add_row(*measured(results, size, range(following, number)))
            written = size + 2 * NEW
    Console(soft_wrap=True).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
