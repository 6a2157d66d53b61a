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


def stored(folder: Path, contexts: list[str | None]) -> HeldOutSource:
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
    assert source.revision == "abc held out 20261121 by text"


def test_a_thing_with_too_many_rows_is_passed_over() -> None:
    contexts = np.array([0] * 90 + list(range(1, 11)))
    held_out = held_out_rows(contexts)
    assert set(contexts[held_out]) == set(range(1, 11))


def test_at_most_2000_rows_are_held_out_and_always_the_same() -> None:
    rows = held_out_rows(np.arange(67_349))
    assert rows.sum() == 2000
    assert np.array_equal(rows, held_out_rows(np.arange(67_349)))


def test_rows_that_are_all_about_one_thing_cannot_be_cut() -> None:
    with pytest.raises(DataError, match=r"No part of the 20 .* at most 4 may be, and each thing .* has more"):
        held_out_rows(np.zeros(20, dtype=np.int64))


@pytest.mark.parametrize(
    ("name", "column"),
    [("glue/sst2", "sentence"), ("glue/rte", "sentence1"), ("superglue/boolq", "passage"), ("gsm8k", "row")],
)
def test_its_revision_is_that_of_the_whole_with_the_column_that_decides(name: str, column: str) -> None:
    _, source = task_named(name).held_out(Source("mirror", Path("/nowhere"), "abc", ""))
    assert source.revision == f"abc held out 20261121 by {column}"


def test_questions_about_one_passage_of_boolq_stay_together(tmp_path: Path) -> None:
    questions, passages = [f"is it {row}" for row in range(60)], [f"It is {row // 3}." for row in range(60)]
    pq.write_table(pa.table({"question": questions, "passage": passages}), tmp_path / "train-0.parquet")
    _, source = task_named("superglue/boolq").held_out(Source("mirror", tmp_path, "abc", ""))
    trained, scored = (set(source.read(split).column("passage").to_pylist()) for split in ("train", "validation"))
    assert len(scored) == 4
    assert not trained & scored


def test_an_empty_cell_is_refused_in_one_sentence(tmp_path: Path) -> None:
    source = stored(tmp_path, ["a", None, "c", "d", "e"])
    for phrase in (None, "passage"):
        cut = HeldOutSource.cut(source.whole, ["validation"], "passage", phrase)
        with pytest.raises(DataError, match=r"The column 'passage' of the split 'train' in .* has empty cells"):
            cut.read("validation")


def test_a_short_phrase_of_several_sentences_goes_with_the_longest_of_them_alone() -> None:
    assert sentences_of(["the film is long", "a film", "film"]).tolist() == [0, 1, 0]


def test_diagnostics_of_another_config_are_not_scored() -> None:
    task = task_named("superglue/rte")
    whole = Source("sample", SAMPLES / "aps/super_glue/rte", "abc", "")
    _, source = task.held_out(whole)
    assert not any(source.of(config).has("test") for config in task.configs)
    assert task.scored_splits(source) == ("validation",)


def test_of_several_reported_splits_the_held_out_part_stands_for_one() -> None:
    task = task_named("glue/mnli")
    selecting, source = task.held_out(Source("sample", SAMPLES / "nyu-mll/glue/mnli", "abc", ""))
    assert selecting.scored_splits(source) == ("validation_matched",)
    assert source.count("validation_matched") > 0
    assert not source.has("validation_mismatched")
    assert task.scored_splits(source) == ("validation_matched", "validation_mismatched")


def test_vtab_holds_out_the_200_that_the_benchmark_keeps_for_it() -> None:
    task = task_named("vtab/dsprites_orientation")
    source = Source("mirror", Path("/nowhere"), "abc", "")
    selecting, same = task.held_out(source)
    assert (selecting.protocol, selecting.reported_splits, same) == ("select", ("val200",), source)


@pytest.mark.real_data
def test_hardly_any_text_of_sst2_that_is_trained_on_is_a_longer_phrase_of_a_held_out_sentence(real_data: Path) -> None:
    """Under one in a thousand is; what is held out is about as long as what is reported."""
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
