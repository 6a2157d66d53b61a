"""Boards kept group by group: what is computed again, and that nothing depends on what was kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from bench.leaderboard import parts
from bench.leaderboard.index import Index
from bench.leaderboard.publish import publish
from bench.records.record import RunRecord
from bench.records.store import RECORD_FILE, Store
from tests.test_record import record, write

Damage = Callable[[bytes], bytes]


def put(results: Path, model: str, seed: int) -> Path:
    """Write the record of a run; returns its folder."""
    value: RunRecord = record(model=model, seed=seed, settings_id="x", run_id=f"{model}-{seed}", data_source="hub")
    folder = Store(results).folder(value.task, value.model, value.method, value.run_id)
    write(folder, value)
    return folder


def published(results: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in publish(results, pages=False)}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two groups of two runs, published."""
    for model in ("a", "b"):
        for seed in (0, 1):
            put(tmp_path, model, seed)
    published(tmp_path)
    return tmp_path


def kept(results: Path) -> set[str]:
    return set(os.listdir(results / parts.FOLDER))


def test_a_new_record_replaces_the_part_of_its_group_alone(results: Path) -> None:
    before = kept(results)
    put(results, "a", 2)
    published(results)
    assert len(before) == len(kept(results)) == 2
    assert len(before & kept(results)) == 1


def test_a_group_whose_records_are_gone_is_forgotten(results: Path) -> None:
    shutil.rmtree(put(results, "b", 0).parent)
    assert b"\nb," not in published(results)["glue.csv"]
    assert len(kept(results)) == 1


DAMAGES = [lambda content: content[:-9], lambda content: content[:40] + b"?" + content[41:], lambda content: b""]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_texts_are_made_again(results: Path, damage: Damage) -> None:
    whole = published(results)
    for folder in (results / parts.FOLDER).iterdir():
        (folder / parts.TEXTS).write_bytes(damage((folder / parts.TEXTS).read_bytes()))
    assert published(results) == whole
    assert all(len(pq.read_table(folder / parts.TEXTS)) for folder in (results / parts.FOLDER).iterdir())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_computed_again(results: Path, damage: Damage) -> None:
    first, second = parts.parts(results, Index.refreshed(results)).values()
    whole = first.boards.rows
    file = first.folder / "rows"
    file.write_bytes(damage(file.read_bytes()))
    pd.testing.assert_frame_equal(first.boards.rows, whole)
    assert not second.boards.rows.equals(whole)


def test_other_code_computes_its_own_boards(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept(results)
    monkeypatch.setattr(parts, "_code", lambda: b"another version")
    published(results)
    assert not before & kept(results)


def test_boards_are_published_where_nothing_can_be_kept(results: Path) -> None:
    whole = published(results)
    shutil.rmtree(results / parts.FOLDER)
    (results / parts.FOLDER).write_text("in the way")
    assert published(results) == whole


def test_a_part_follows_its_record_even_where_the_size_stays(results: Path) -> None:
    before = published(results)
    file = put(results, "a", 0) / RECORD_FILE
    file.write_bytes(file.read_bytes().replace(b'"score": 80', b'"score": 70'))
    assert published(results) != before
