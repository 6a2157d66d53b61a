"""What settings are chosen on: a part of the training split, apart from what is trained on and what is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import DataError
from bench.settings import DataSettings
from tasks.held_out import HeldOutSource, held_out_rows, sentences_of
from tasks.locating import SAMPLES, resolve
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


def test_a_phrase_goes_with_the_longest_text_that_holds_it() -> None:
    texts = ["a fine film", "film", "not a fine film at all", "fine film at", "a dull film", "dull", "a dull film"]
    assert sentences_of(texts).tolist() == [2, 2, 2, 2, 4, 4, 4]


def test_sentences_are_held_out_whole_and_their_phrases_are_in_neither_part(tmp_path: Path) -> None:
    sentences = [f"word{row} and more{row}" for row in range(20)]
    texts = [*sentences, *(f"more{row}" for row in range(20)), *(f"word{row} and" for row in range(20))]
    pq.write_table(pa.table({"idx": range(60), "text": texts}), tmp_path / "train-0.parquet")
    whole = Source("mirror", tmp_path, "abc", "")
    source = HeldOutSource.cut(whole, ["validation"], "text", "text")
    trained, scored = ids(source, "train"), ids(source, "validation")
    assert len(scored) == 4
    assert max(scored) < len(sentences)
    assert {row % 20 for row in trained} == set(range(20)) - set(scored)
    assert (source.count("train"), source.count("validation")) == (48, 4)
    assert source.revision != HeldOutSource.cut(whole, ["validation"], "text").revision


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


@pytest.mark.real_data
def test_no_sentence_of_sst2_is_both_trained_on_and_scored(real_data: Path) -> None:
    """What is held out is about as long as what is reported, and nothing that is trained on is a large part of it."""
    task = task_named("glue/sst2")
    _, source = task.held_out(resolve(DataSettings("mirror", str(real_data)), task))
    assert isinstance(source, HeldOutSource)
    trained, scored = (source.read(split).column("sentence").to_pylist() for split in ("train", "validation"))
    reported = source.whole.read("validation").column("sentence").to_pylist()
    assert 1000 < len(scored) <= 2000
    assert np.median(list(map(words, scored))) == pytest.approx(np.median(list(map(words, reported))), abs=3)
    held_out = " | ".join(scored)
    assert sum(text in held_out for text in trained if words(text) > 3) < len(trained) / 1000


def words(text: str) -> int:
    return len(text.split())
