"""What settings are chosen on: a part of the training split, apart from what is trained on and what is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import DataError
from tasks.held_out import HeldOutSource, held_out_rows
from tasks.locating import SAMPLES
from tasks.sources import Source
from tests.conftest import task_named


def stored(folder: Path, contexts: list[str]) -> HeldOutSource:
    """A training split with one row per context, cut in two, and a validation split that must not be read."""
    pq.write_table(pa.table({"idx": range(len(contexts)), "passage": contexts}), folder / "train-0.parquet")
    pq.write_table(pa.table({"idx": [-1], "passage": ["reported"]}), folder / "validation-0.parquet")
    return HeldOutSource.cut(Source("mirror", folder, "abc", ""), ["validation"], "passage")


def ids(source: Source, split: str) -> list[int]:
    return source.read(split).column("idx").to_pylist()


def test_the_parts_make_up_the_training_split_and_hold_nothing_that_is_reported(tmp_path: Path) -> None:
    source = stored(tmp_path, [f"passage {row}" for row in range(50)])
    trained, scored = ids(source, "train"), ids(source, "validation")
    assert sorted(trained + scored) == list(range(50))
    assert (len(trained), len(scored)) == (source.count("train"), source.count("validation")) == (40, 10)


def test_rows_about_one_thing_stay_together(tmp_path: Path) -> None:
    source = stored(tmp_path, [f"passage {row // 3}" for row in range(60)])
    trained, scored = ({row // 3 for row in ids(source, split)} for split in ("train", "validation"))
    assert len(scored) == 4
    assert not trained & scored


def test_a_thing_with_too_many_rows_is_passed_over() -> None:
    contexts = np.array([0] * 90 + list(range(1, 11)))
    held_out = held_out_rows(contexts)
    assert set(contexts[held_out]) == set(range(1, 11))


def test_at_most_2000_rows_are_held_out_and_always_the_same() -> None:
    rows = held_out_rows(np.arange(67_349))
    assert rows.sum() == 2000
    assert np.array_equal(rows, held_out_rows(np.arange(67_349)))


def test_rows_that_are_all_about_one_thing_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="No part of the 20 training rows can be held out"):
        held_out_rows(np.zeros(20, dtype=np.int64))


def test_its_revision_is_not_that_of_the_whole(tmp_path: Path) -> None:
    source = stored(tmp_path, ["a", "b", "c", "d", "e"])
    assert source.revision != source.whole.revision
    assert source.whole.revision in source.revision


def test_diagnostics_of_another_config_are_not_scored() -> None:
    task = task_named("superglue/rte")
    whole = Source("sample", SAMPLES / "aps/super_glue/rte", "abc", "")
    _, source = task.held_out(whole)
    assert not any(source.of(config).has("test") for config in task.configs)
    assert task.scored_splits(source) == ("validation",)


def test_vtab_holds_out_the_200_that_the_benchmark_keeps_for_it() -> None:
    task = task_named("vtab/dsprites_orientation")
    source = Source("mirror", Path("/nowhere"), "abc", "")
    selecting, same = task.held_out(source)
    assert (selecting.protocol, selecting.reported_splits, same) == ("select", ("val200",), source)
