"""The index of records: what it knows, when it reads a record anew, and that it can always be rebuilt."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bench.leaderboard.index
from bench.leaderboard import columns, parts
from bench.leaderboard.columns import board_values
from bench.leaderboard.files import write
from bench.leaderboard.index import INDEX_FILE, SCHEMA, Index, _reading
from bench.leaderboard.overall import averages, overall
from bench.leaderboard.publish import publish
from bench.leaderboard.rows import rows_of
from bench.leaderboard.task_sets import over_equal_tasks
from bench.records.record import RunRecord
from bench.records.schema import plain
from bench.records.store import RECORD_FILE, Store
from tasks.metrics.averages import GLUE_NINE
from tests.conftest import ROOT, runs_of
from tests.test_record import record


def put(results: Path, value: RunRecord) -> Path:
    """Write a record where it belongs; returns its file."""
    file = Store(results).folder(value.task, value.model, value.method, value.run_id) / RECORD_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plain(value), indent=2))
    return file


def seeds(results: Path) -> list[int]:
    """Seeds of the records that count, each of which stands for its record."""
    return sorted(Index.refreshed(results).runs["seed"])


def seed(number: int, **changes: Any) -> RunRecord:
    """A record that `seeds` tells from the others."""
    return record(seed=number, run_id=f"{number:016x}", settings_id="x", **changes)


def varied(count: int) -> list[RunRecord]:
    """Records of several boards, tasks, methods and statuses, with columns that were not measured."""
    draw = random.Random(0)
    values = [
        seed(
            draw.randrange(4),
            task=draw.choice([*(f"glue/{task}" for task in GLUE_NINE), "gsm8k", "vtab/dtd"]),
            method=draw.choice(["lora", "dora"]),
            budget=draw.choice(["full", "full", "quick"]),
            data_source=draw.choice(["hub", "mirror", "sample"]),
            data_subset=draw.choice([None, "official", "resampled 0123"]),
            score=draw.choice([80.0, 100 * draw.random()]),
            metrics={"combined_score": draw.choice([None, draw.random()])},
            inference_parameters=draw.choice([None, 22_000_000]),
            train_tokens_per_second=draw.choice([None, 1e6 * draw.random()]),
        )
        for _ in range(count)
    ]
    failed = {"status": "failed", "score": None}
    return [
        replace(value, run_id=f"{number:016x}", **(failed if number % 10 == 0 else {}))
        for number, value in enumerate(values)
    ]


def bytes_of(files: list[Path]) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in files}


def test_every_status_is_known_but_only_complete_runs_stand_on_boards(tmp_path: Path) -> None:
    put(tmp_path, seed(1))
    put(tmp_path, seed(2, task="gsm8k", status="diverged", score=None))
    index = Index.refreshed(tmp_path)
    folders = ("glue/sst2/minilm/lora/0000000000000001", "gsm8k/minilm/lora/0000000000000002")
    assert index.statuses == dict(zip(folders, ("complete", "diverged"), strict=True))
    assert index.run_ids == dict(zip(folders, ("0000000000000001", "0000000000000002"), strict=True))
    assert index.runs["seed"].tolist() == [1]
    assert index.unreadable == []


def test_a_truncated_record_is_reported_kept_and_counted_again_once_mended(tmp_path: Path) -> None:
    put(tmp_path, seed(1))
    file = put(tmp_path, seed(2))
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    index = Index.refreshed(tmp_path)
    assert index.runs["seed"].tolist() == [1]
    assert index.unreadable == [(file, "Input data was truncated")]
    assert file.read_text() == whole[: len(whole) // 2]
    file.write_text(whole)
    assert seeds(tmp_path) == [1, 2]
    assert Index.refreshed(tmp_path).unreadable == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"colour": "red"}, "unknown field `colour`"),
        ({"seed": "1"}, "Expected `int`, got `str`"),
        ({"seed": 2**70}, "does not fit into 64 bits"),
        ({"train_seconds": float("nan")}, "invalid character"),
        ({"score": None}, "a complete record has no score"),
        ({"schema_version": 99}, "Invalid value 99"),
        ({"settings": {"training": {"learning_rate": "0.001"}}}, "'0.001' is no number"),
        ({"settings": {"training": {"learning_rate": [0.1]}}}, "[0.1] is no number"),
        ({"settings": {"training": {"learning_rate": 10**400}}}, "too large"),
    ],
)
def test_a_record_off_the_schema_is_reported_and_takes_no_other_with_it(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    put(tmp_path, seed(1))
    file = put(tmp_path, seed(2))
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    index = Index.refreshed(tmp_path)
    [(path, said)] = index.unreadable
    assert path == file
    assert why in said
    assert index.runs["seed"].tolist() == [1]


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, ValueError])
def test_a_record_that_no_row_follows_from_takes_no_other_with_it(
    tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, seed(1))
    file = put(tmp_path, seed(2))

    def values(found: RunRecord) -> dict[str, Any]:
        if found.seed == 2:
            raise error("nonsense")
        return board_values(found)

    monkeypatch.setattr("bench.leaderboard.index.board_values", values)
    index = Index.refreshed(tmp_path)
    assert [path for path, _ in index.unreadable] == [file]
    assert index.runs["seed"].tolist() == [1]


def test_a_file_that_the_system_refuses_is_tried_again(tmp_path: Path) -> None:
    file = put(tmp_path, seed(1))
    text = file.read_bytes()
    file.unlink()
    file.mkdir()
    assert Index.refreshed(tmp_path).unreadable == [(file, "Is a directory")]
    assert Index.refreshed(tmp_path).unreadable == [(file, "Is a directory")]
    file.rmdir()
    file.write_bytes(text)
    assert seeds(tmp_path) == [1]


def test_records_that_came_changed_or_went_are_noticed(tmp_path: Path) -> None:
    files = [put(tmp_path, seed(number)) for number in (1, 2)]
    assert seeds(tmp_path) == [1, 2]
    files[0].unlink()
    put(tmp_path, replace(seed(3), run_id=seed(2).run_id))
    put(tmp_path, seed(4))
    assert seeds(tmp_path) == [3, 4]


def test_only_what_is_new_or_changed_is_read(tmp_path: Path) -> None:
    old = put(tmp_path, seed(1))
    Index.refreshed(tmp_path)
    _replace_unnoticed(old, b"#" * old.stat().st_size)
    put(tmp_path, seed(2))
    assert seeds(tmp_path) == [1, 2]
    os.utime(old)
    assert seeds(tmp_path) == [2]


def test_an_unreadable_record_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    file = put(tmp_path, seed(1))
    whole = file.read_bytes()
    file.write_bytes(b"#" * len(whole))
    assert seeds(tmp_path) == []
    _replace_unnoticed(file, whole)
    assert seeds(tmp_path) == []
    os.utime(file)
    assert seeds(tmp_path) == [1]


def _replace_unnoticed(file: Path, content: bytes) -> None:
    """Other content under the same size and time of change."""
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


@pytest.mark.parametrize(
    "folder",
    [".0123", ".0123-abc", "0123~1", "0123/adapter"],
    ids=["at work", "temporary", "set aside", "inside a run"],
)
def test_work_in_progress_and_what_was_set_aside_is_left_out(tmp_path: Path, folder: str) -> None:
    put(tmp_path, replace(seed(1), run_id="0123"))
    put(tmp_path, replace(seed(2), run_id=folder))
    assert seeds(tmp_path) == [1]


def test_a_model_with_a_name_as_long_as_a_run_id_is_looked_into(tmp_path: Path) -> None:
    put(tmp_path, seed(1, model="a-model-of-16-ch"))
    assert seeds(tmp_path) == [1]


def test_folders_without_a_complete_record_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = put(tmp_path, seed(1))
    failed = put(tmp_path, seed(2, status="failed", score=None))
    truncated = put(tmp_path, seed(3))
    truncated.write_text("{")
    absent = Store(tmp_path).folder("gsm8k", "minilm", "lora", "0123")
    folders = [absent, complete.parent, failed.parent, truncated.parent]
    expected = [absent, failed.parent, truncated.parent]
    assert Index.refreshed(tmp_path).missing(folders) == expected
    monkeypatch.chdir(tmp_path.parent)
    assert Index.refreshed(Path(tmp_path.name)).missing(folders) == expected


def test_an_empty_results_folder_has_an_empty_index(tmp_path: Path) -> None:
    index = Index.refreshed(tmp_path / "absent")
    assert (len(index.runs), index.statuses, index.unreadable) == (0, {}, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["emptied", "halved", "no parquet", "one bit of a page"])
def test_a_damaged_index_is_rebuilt(tmp_path: Path, damage: str) -> None:
    for number in range(50):
        put(tmp_path, seed(number))
    Index.refreshed(tmp_path)
    file = tmp_path / INDEX_FILE
    whole = file.read_bytes()
    flipped = bytearray(whole)
    column = pq.read_metadata(file).row_group(0).column(0)
    flipped[column.data_page_offset + column.total_compressed_size - 4] ^= 1
    file.write_bytes({"emptied": b"", "halved": whole[: len(whole) // 2], "no parquet": b"PAR1"}.get(damage, flipped))
    assert seeds(tmp_path) == list(range(50))
    assert file.read_bytes() == whole


def test_an_index_of_another_version_is_rebuilt(tmp_path: Path) -> None:
    put(tmp_path, seed(1))
    Index.refreshed(tmp_path)
    doctored = _with_status(pq.read_table(tmp_path / INDEX_FILE), "failed")
    pq.write_table(doctored, tmp_path / INDEX_FILE)
    assert seeds(tmp_path) == [], "the index of this version is believed"
    pq.write_table(doctored.replace_schema_metadata({"reading": "of an earlier version"}), tmp_path / INDEX_FILE)
    assert seeds(tmp_path) == [1]
    pq.write_table(doctored.drop_columns(["stored_bytes"]), tmp_path / INDEX_FILE)
    assert seeds(tmp_path) == [1]


def test_an_index_is_of_another_version_when_what_makes_its_rows_has_changed(tmp_path: Path) -> None:
    sources = [Path(tmp_path / name) for name in ("index.py", "columns.py")]
    for source in sources:
        source.write_text("FIRST = 1")
    first = _reading(*map(str, sources))
    assert _reading(*map(str, sources)) == first
    sources[1].write_text("FIRST = 2")
    assert _reading(*map(str, sources)) != first
    assert SCHEMA.metadata[b"reading"].decode() == _reading(bench.leaderboard.index.__file__, columns.__file__)


def _with_status(table: pa.Table, status: str) -> pa.Table:
    return table.set_column(SCHEMA.get_field_index("status"), "status", pa.array([status] * len(table)))


def test_where_no_index_can_be_written_the_records_count_all_the_same(tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).mkdir()
    put(tmp_path, seed(1))
    assert seeds(tmp_path) == [1]
    assert {path.name for path in tmp_path.iterdir()} == {"runs", INDEX_FILE}


def test_processes_that_refresh_at_once_leave_a_valid_index(tmp_path: Path) -> None:
    with ProcessPoolExecutor(max_workers=3, mp_context=multiprocessing.get_context("spawn")) as pool:
        seen = list(pool.map(_write_and_refresh, [tmp_path] * 3, range(3)))
    assert all(set(range(1000 * number, 1000 * number + 20)) <= found for number, found in enumerate(seen))
    assert pq.read_table(tmp_path / INDEX_FILE).schema.equals(SCHEMA, check_metadata=True)
    assert len(seeds(tmp_path)) == 60
    assert {path.name for path in tmp_path.iterdir()} == {"runs", INDEX_FILE}


def _write_and_refresh(results: Path, process: int) -> set[int]:
    """Write 20 records and refresh after each; what the last refresh saw."""
    for number in range(20):
        put(results, seed(1000 * process + number))
        found = seeds(results)
    return set(found)


def test_boards_from_the_index_are_those_of_the_records_themselves(tmp_path: Path) -> None:
    records = varied(300)
    for value in records:
        put(tmp_path, value)
    direct = runs_of(
        sorted(records, key=lambda value: (*value.task.split("/"), value.model, value.method, value.run_id))
    )
    indexed = Index.refreshed(tmp_path).runs
    assert list(indexed.columns) == list(direct.columns)
    for board in (
        rows_of,
        lambda runs: overall(over_equal_tasks(rows_of(runs).assign(lost_seeds=0), runs)),
        lambda runs: averages(rows_of(runs)),
    ):
        assert board(indexed).to_csv() == board(direct).to_csv()


def test_boards_after_new_records_are_those_of_a_build_from_nothing(tmp_path: Path) -> None:
    records = varied(200)
    for value in records[:150]:
        put(tmp_path, value)
    publish(tmp_path)
    for value in records[150:]:
        put(tmp_path, value)
    step_by_step = bytes_of(publish(tmp_path))
    for file in [tmp_path / INDEX_FILE, *step_by_step]:
        file.unlink()
    shutil.rmtree(tmp_path / parts.FOLDER)
    assert bytes_of(publish(tmp_path)) == step_by_step


def test_what_several_processes_read_and_compute_is_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in varied(200):
        put(tmp_path, value)
    alone = bytes_of(publish(tmp_path, pages=False))
    index = (tmp_path / INDEX_FILE).read_bytes()
    for path in (INDEX_FILE, parts.FOLDER):
        _remove(tmp_path / path)
    monkeypatch.setattr(bench.leaderboard.index, "MANY", 1)
    monkeypatch.setattr(bench.leaderboard.index, "AT_ONCE", 30)
    monkeypatch.setattr(parts, "MANY", 1)
    assert bytes_of(publish(tmp_path, pages=False)) == alone
    assert (tmp_path / INDEX_FILE).read_bytes() == index
    assert all((folder / parts.TEXTS).exists() for folder in (tmp_path / parts.FOLDER).iterdir())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_a_few_records_among_many_are_read_again_until_the_index_is_worth_writing(tmp_path: Path) -> None:
    for number in range(200):
        put(tmp_path, seed(number))
    assert len(seeds(tmp_path)) == 200
    before = (tmp_path / INDEX_FILE).read_bytes()
    for number in (200, 201):
        put(tmp_path, seed(number))
        assert max(seeds(tmp_path)) == number
        assert (tmp_path / INDEX_FILE).read_bytes() == before
    put(tmp_path, seed(202))
    assert max(seeds(tmp_path)) == 202
    assert pq.read_metadata(tmp_path / INDEX_FILE).num_rows == 203


def test_links_are_not_followed(tmp_path: Path) -> None:
    file = put(tmp_path, seed(1))
    (file.parent.parent / f"{2:016x}").symlink_to(file.parent)
    (file.parent.parent / "elsewhere").symlink_to(file.parent.parent)
    assert seeds(tmp_path) == [1]


def test_boards_that_stay_the_same_are_not_written_again(tmp_path: Path) -> None:
    put(tmp_path, seed(1, task="gsm8k"))
    put(tmp_path, seed(1, task="glue/rte"))
    for file in publish(tmp_path):
        os.utime(file, (0, 0))
    put(tmp_path, seed(2, task="glue/rte"))
    written = {file.name for file in publish(tmp_path) if file.stat().st_mtime > 0}
    assert written == {"glue.csv", "overall.csv", "pareto.csv", "leaderboard.md", "leaderboard.tex", "index.html"}


def test_a_board_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = write(b"old", tmp_path / "glue.csv")
    whole = Path.write_bytes

    def half(path: Path, content: bytes) -> None:
        whole(path, content[: len(content) // 2])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk is full"):
        write(b"a new one", board)
    assert board.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [board]


def test_the_leaderboard_names_ten_unreadable_records_and_counts_the_others(tmp_path: Path) -> None:
    for number in range(13):
        put(tmp_path, seed(number)).write_text("{")
    put(tmp_path, seed(99))
    command = [sys.executable, str(ROOT / "scripts/leaderboard.py"), "--results", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0
    lines = shown.stderr.splitlines()
    assert len(lines) == 11
    first = Store(tmp_path).folder("glue/sst2", "minilm", "lora", seed(0).run_id) / RECORD_FILE
    assert lines[0] == f"not counted: {first}: Input data was truncated"
    assert lines[-1] == "not counted: 3 more records"
    assert len(pd.read_csv(tmp_path / "leaderboard/demonstration/glue.csv")) == 1


def test_the_leaderboard_shows_the_first_rows_of_a_long_board_and_says_where_the_others_are(tmp_path: Path) -> None:
    for number in range(43):
        put(tmp_path, replace(seed(number), method=f"method{number:02d}"))
    command = [sys.executable, str(ROOT / "scripts/leaderboard.py"), "--results", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    assert [f"method{number:02d}" in shown for number in range(43)] == [True] * 40 + [False] * 3
    assert f"3 more rows in {tmp_path / 'leaderboard/demonstration/leaderboard.md'}" in shown
