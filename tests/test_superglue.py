"""SuperGLUE: the official schema read, what the model is shown, and the scores."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from bench.errors import DataError
from bench.settings import DataSettings
from tasks.locating import SAMPLES, resolve
from tasks.sources import Source
from tests.conftest import task_named
from tests.superglue_files import DIAGNOSTICS, OFFICIAL, PARAGRAPH, in_official_schema, squeezed, written

ROWS = dict.fromkeys(OFFICIAL, 1) | {"copa": 2, "multirc": 4, "record": 5}


@pytest.fixture
def official(tmp_path: Path) -> Callable[..., Source]:
    """A source in a config's official schema."""
    return functools.partial(in_official_schema, tmp_path)


def sample(config: str) -> Source:
    return resolve(DataSettings("sample"), task_named(f"superglue/{config}"))


def texts(examples: Any, tokenizer: Any) -> list[str]:
    """What each row of tokens says."""
    return [tokenizer.decode(examples.tokens.row(i)) for i in range(len(examples.tokens.lengths))]


class TestSchema:
    @pytest.mark.parametrize("config", OFFICIAL)
    def test_the_official_schema_is_read(self, config: str, official: Any, byte_level: Any) -> None:
        task = task_named(f"superglue/{config}")
        examples = task.encode(official(config), "validation", byte_level, task.max_length, None)
        assert len(examples) == ROWS[config]
        expected = [row["label"] for row in OFFICIAL[config][1]] if config != "record" else [1, 0, 0, 0, 1]
        assert examples.labels.tolist() == expected
        batch = examples.batch(np.arange(len(examples)))
        assert batch.inputs["labels"].tolist() == expected
        assert batch.tokens == examples.tokens.lengths.sum()

    @pytest.mark.parametrize("config", OFFICIAL)
    def test_both_splits_of_every_sample_encode(self, config: str, byte_level: Any) -> None:
        task = task_named(f"superglue/{config}")
        for split in ("train", *task.scored_splits(sample(config))):
            examples = task.encode(sample(config), split, byte_level, 256, None)
            assert len(examples) >= 100
            assert examples.lengths.max() <= 256
            assert set(examples.labels) == set(range(len(task.labels)))

    @pytest.mark.real_data
    @pytest.mark.parametrize(
        ("config", "train", "validation"), [("rte", 2490, 277), ("wic", 5428, 638), ("wsc", 554, 104)]
    )
    def test_the_real_splits_have_the_benchmarks_rows(
        self, config: str, train: int, validation: int, real_data: Path, byte_level: Any
    ) -> None:
        task = task_named(f"superglue/{config}")
        source = resolve(DataSettings("mirror", str(real_data)), task)
        assert len(task.encode(source, "train", byte_level, 512, None)) == train
        assert len(task.encode(source, "validation", byte_level, 512, None)) == validation
        with pytest.raises(DataError, match="label -1"):
            task.encode(source, "test", byte_level, 512, None)

    @pytest.mark.parametrize("config", [config for config in OFFICIAL if config != "record"])
    def test_hidden_labels_are_refused(self, config: str, official: Any, byte_level: Any) -> None:
        with pytest.raises(DataError, match="label -1; labels must lie between 0 and"):
            task_named(f"superglue/{config}").encode(official(config, label=-1), "validation", byte_level, 64, None)

    @pytest.mark.parametrize(
        ("config", "column"),
        [("copa", "question"), ("multirc", "answer"), ("record", "entities"), ("record", "idx"), ("wic", "start2"),
         ("wic", "word"), ("wsc", "span1_index"), ("wsc", "span2_text"), ("multirc", "idx")],
    )  # fmt: skip
    def test_a_missing_column_is_named(self, config: str, column: str, tmp_path: Path, byte_level: Any) -> None:
        rows = [{name: value for name, value in row.items() if name != column} for row in OFFICIAL[config][1]]
        with pytest.raises(DataError, match=f"lacks the column '{column}'"):
            task_named(f"superglue/{config}").encode(written(tmp_path, rows, None), "validation", byte_level, 64, None)


class TestPairs:
    @pytest.mark.parametrize(
        ("config", "first", "second"),
        [("boolq", "is rome old", "rome is ancient."), ("cb", "i think it rains.", "it rains"),
         ("rte", "it rains in oslo.", "it rains.")],
    )  # fmt: skip
    def test_the_first_text_stands_first(
        self, config: str, first: str, second: str, official: Any, tiny_bert: Path
    ) -> None:
        tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
        examples = task_named(f"superglue/{config}").encode(official(config), "validation", tokenizer, 64, None)
        assert list(examples.tokens.row(0)) == tokenizer(first, second)["input_ids"]

    @pytest.mark.parametrize("config", ["boolq", "cb", "wsc", "wic"])
    def test_scores_follow_from_the_predictions(self, config: str, byte_level: Any) -> None:
        task = task_named(f"superglue/{config}")
        examples = task.encode(sample(config), "validation", byte_level, 256, None)
        answers = np.random.default_rng(1).normal(size=(len(examples), task.outputs)).astype(np.float32)
        columns = task.predict(answers, examples)
        scores = task.score({"validation": columns}, {"validation": examples})
        accuracy = float(np.mean(answers.argmax(axis=1) == examples.labels))
        assert scores.metrics["accuracy"] == pytest.approx(accuracy)
        assert list(columns["prediction"]) == list(answers.argmax(axis=1))
        assert scores.score == pytest.approx(100 * scores.metrics[task.headline])


class TestCopa:
    def test_each_choice_continues_the_premise_and_its_question(self, official: Any, byte_level: Any) -> None:
        task = task_named("superglue/copa")
        examples = task.encode(official("copa"), "validation", byte_level, 128, None)
        assert texts(examples, byte_level) == [
            "The grass was wet. What was the cause of this?It rained.",
            "The grass was wet. What was the cause of this?It grew.",
            "He fell. What happened as a result?He sang.",
            "He fell. What happened as a result?He cried.",
        ]
        batch = examples.batch(np.array([1, 0]))
        assert (batch.samples, len(batch.inputs["input_ids"]), batch.inputs["labels"].tolist()) == (2, 4, [1, 0])
        first = batch.inputs["input_ids"][0]
        assert byte_level.decode(first[: examples.tokens.lengths[2]]) == "He fell. What happened as a result?He sang."

    def test_swapping_the_choices_with_the_label_leaves_the_score(self, official: Any, byte_level: Any) -> None:
        task, source = task_named("superglue/copa"), sample("copa")
        plain = task.encode(source, "validation", byte_level, 128, None)
        rows = source.read("validation").to_pylist()
        swapped = [
            row | {"choice1": row["choice2"], "choice2": row["choice1"], "label": 1 - row["label"]} for row in rows
        ]
        other = task.encode(official("copa", swapped), "validation", byte_level, 128, None)
        value = {text: zlib.crc32(text.encode()) % 1000 / 1000 for text in texts(plain, byte_level)}
        found = []
        for examples in (plain, other):
            answers = np.array([value[text] for text in texts(examples, byte_level)], np.float32).reshape(-1, 2)
            columns = {"validation": task.predict(answers, examples)}
            found.append(task.score(columns, {"validation": examples}).score)
        assert found[0] == found[1]
        assert 0 < found[0] < 100

    def test_another_question_is_refused(self, official: Any, byte_level: Any) -> None:
        with pytest.raises(DataError, match="question 'why'; allowed are cause and effect"):
            task_named("superglue/copa").encode(official("copa", question="why"), "validation", byte_level, 64, None)


def long_multirc() -> list[dict[str, Any]]:
    """The sample's questions about longer paragraphs with punctuation, every other with characters of several bytes."""
    rows = pq.read_table(SAMPLES / "aps/super_glue/multirc/validation-00000-of-00001.parquet").to_pylist()
    passages = pq.read_table(SAMPLES / "aps/super_glue/boolq/validation-00000-of-00001.parquet").column("passage")
    longer = [f'{row["paragraph"]} (No. {i}: "{passages[i % 50]}", it\'s said.)' for i, row in enumerate(rows)]
    return [
        row | {"paragraph": f"{longer[i].replace(' ', ' ☕☕— ' if i % 2 else ' ')} {row['paragraph']}"}
        for i, row in enumerate(rows)
    ]


class TestMultirc:
    def test_paragraph_and_question_stand_before_the_answer(self, official: Any, byte_level: Any) -> None:
        examples = task_named("superglue/multirc").encode(official("multirc"), "validation", byte_level, 512, None)
        assert texts(examples, byte_level)[1] == f"{PARAGRAPH} Whom did Anna meet?Carlo"
        assert examples.ids.tolist() == [0, 1, 2, 3]
        assert examples.columns["question"].tolist() == [0, 0, 1, 1]

    @pytest.mark.parametrize("max_length", [64, 100])
    def test_the_paragraph_alone_is_cut(self, max_length: int, any_tokenizer: Any, tmp_path: Path) -> None:
        rows = long_multirc()
        source = written(tmp_path, rows, OFFICIAL["multirc"][0])
        examples = task_named("superglue/multirc").encode(source, "validation", any_tokenizer, max_length, None)
        assert examples.lengths.max() <= max_length
        cut = 0
        for index, row in enumerate(rows):
            text = any_tokenizer.decode(examples.tokens.row(index), skip_special_tokens=True)
            whole = any_tokenizer.decode(
                any_tokenizer(f"{row['paragraph']} {row['question']}", row["answer"])["input_ids"],
                skip_special_tokens=True,
            )
            rest = any_tokenizer.decode(
                any_tokenizer(f" {row['question']}", row["answer"])["input_ids"], skip_special_tokens=True
            )
            assert squeezed(text).endswith(squeezed(rest))
            left = squeezed(text).removesuffix(squeezed(rest))
            assert squeezed(whole).startswith(left)
            if squeezed(text) != squeezed(whole):
                cut += 1
                assert examples.lengths[index] > max_length - 16, "no more than about a word is lost"
        assert cut > len(rows) / 2

    @pytest.mark.parametrize("at_most", [1, 17, 50])
    def test_a_subset_holds_whole_questions(self, at_most: int, byte_level: Any) -> None:
        task, source = task_named("superglue/multirc"), sample("multirc")
        everything = task.encode(source, "validation", byte_level, 256, None)
        subset = task.encode(source, "validation", byte_level, 256, at_most)
        _, sizes = np.unique(everything.columns["question"], return_counts=True)
        questions, kept = np.unique(subset.columns["question"], return_counts=True)
        assert kept.tolist() == sizes[questions].tolist()
        assert at_most - sizes.max() < len(subset) <= max(at_most, sizes.max())
        again = task.encode(source, "validation", byte_level, 256, at_most)
        assert again.ids.tolist() == subset.ids.tolist()

    def test_worked_example(self, official: Any, byte_level: Any) -> None:
        """Question A: gold 1, 0, predicted 1, 0. Question B: gold 1, 1, predicted 1, 0."""
        task = task_named("superglue/multirc")
        examples = task.encode(official("multirc"), "validation", byte_level, 64, None)
        columns = task.predict(np.array([[0, 1], [1, 0], [0, 1], [1, 0]], np.float32), examples)
        scores = task.score({"validation": columns}, {"validation": examples})
        assert scores.metrics == pytest.approx({"exact_match": 0.5, "f1_a": 0.8, "combined_score": 0.65})
        assert scores.score == pytest.approx(65)


class TestRecord:
    def test_a_query_has_a_row_for_each_of_its_entities_in_order(self, official: Any, byte_level: Any) -> None:
        examples = task_named("superglue/record").encode(official("record"), "validation", byte_level, 512, None)
        assert list(examples.columns["entity"]) == ["Bob Dylan", "Dylan", "Rome", "Ann", "Oslo"]
        assert examples.columns["query"].tolist() == [7, 7, 7, 8, 8]
        passage = OFFICIAL["record"][1][0]["passage"]
        assert texts(examples, byte_level)[1] == f"{passage}Mr Dylan sang"

    def test_the_order_of_the_entities_changes_nothing(self, official: Any, byte_level: Any) -> None:
        task = task_named("superglue/record")
        rows = OFFICIAL["record"][1]
        turned = [row | {"entities": row["entities"][::-1]} for row in rows]
        first, second = (
            task.encode(official("record", given), "validation", byte_level, 512, None) for given in (rows, turned)
        )
        assert texts(first, byte_level) == texts(second, byte_level)
        assert first.labels.tolist() == second.labels.tolist()
        assert list(first.columns["entity"]) == list(second.columns["entity"])

    def test_worked_example(self, official: Any, byte_level: Any) -> None:
        """ "Dylan" for {Bob, Bob Dylan}: no match, one of two words; then a second query with nothing in common."""
        task = task_named("superglue/record")
        rows = OFFICIAL["record"][1]
        dylan, ann = [[0.0, 0.0], [-3.0, 0.1], [5.0, 3.0]], [[0.0, 9.0], [0.0, 0.0]]
        for given, answers, f1 in ((rows[:1], dylan, 2 / 3), (rows, dylan + ann, 1 / 3)):
            examples = task.encode(official("record", given), "validation", byte_level, 512, None)
            columns = task.predict(np.array(answers, np.float32), examples)
            scores = task.score({"validation": columns}, {"validation": examples})
            assert scores.metrics == pytest.approx({"exact_match": 0, "f1": f1, "combined_score": f1 / 2})
            assert scores.score == pytest.approx(50 * f1)
            assert columns["credit"] == pytest.approx([0, 1 / 3, 0, 0, 0][: len(answers)])

    @pytest.mark.parametrize("at_most", [1, 20, 60])
    def test_a_subset_holds_whole_queries(self, at_most: int, byte_level: Any) -> None:
        task, source = task_named("superglue/record"), sample("record")
        subset = task.encode(source, "validation", byte_level, 256, at_most)
        entities = {row["idx"]["query"]: set(row["entities"]) for row in source.read("validation").to_pylist()}
        queries, kept = np.unique(subset.columns["query"], return_counts=True)
        assert kept.tolist() == [len(entities[query]) for query in queries]
        assert at_most - 6 < len(subset) <= max(at_most, 6)

    def test_the_passage_alone_is_cut(self, any_tokenizer: Any) -> None:
        task, source = task_named("superglue/record"), sample("record")
        examples = task.encode(source, "validation", any_tokenizer, 64, None)
        assert examples.lengths.max() == 64
        queries = {row["idx"]["query"]: row["query"] for row in source.read("validation").to_pylist()}
        for index in range(0, len(examples), 7):
            text = any_tokenizer.decode(examples.tokens.row(index), skip_special_tokens=True)
            query = queries[examples.columns["query"][index]]
            filled = query.replace("@placeholder", examples.columns["entity"][index])
            known = any_tokenizer.decode(any_tokenizer(filled)["input_ids"], skip_special_tokens=True)
            assert squeezed(text).endswith(squeezed(known))

    @pytest.mark.parametrize("column", ["answers", "entities"])
    def test_queries_that_cannot_be_scored_are_refused(self, column: str, official: Any, byte_level: Any) -> None:
        with pytest.raises(DataError, match=f"has queries without {column}"):
            task_named("superglue/record").encode(
                official("record", **{column: []}), "validation", byte_level, 64, None
            )


class TestDiagnostics:
    def encoded(self, tokenizer: Any, source: Source) -> tuple[Any, dict[str, Any]]:
        task = task_named("superglue/rte")
        splits = task.scored_splits(source)
        return task, {split: task.encode(source, split, tokenizer, 128, 20) for split in splits}

    def test_the_model_of_rte_is_scored_on_them_as_a_whole(self, byte_level: Any) -> None:
        task, examples = self.encoded(byte_level, sample("rte"))
        assert {split: len(encoded) for split, encoded in examples.items()} == {
            "validation": 20,
            "axb/test": 120,
            "axg/test": 120,
        }
        predictions = {
            split: task.predict(
                np.tile(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), (len(encoded) // 2, 1)), encoded
            )
            for split, encoded in examples.items()
        }
        scores = task.score(predictions, examples)
        accuracy = {
            split: float(np.mean(encoded.labels == np.arange(len(encoded)) % 2)) for split, encoded in examples.items()
        }
        assert scores.metrics["accuracy"] == accuracy["validation"]
        assert scores.score == 100 * accuracy["validation"], "the diagnostics are no part of it"
        assert scores.metrics["axb_accuracy"] == accuracy["axb/test"]
        assert scores.metrics["axg_accuracy"] == 0.5
        assert scores.metrics["axg_gender_parity"] == 0, "the two of a pair are told apart by their place"
        correlation = np.corrcoef(examples["axb/test"].labels, np.arange(120) % 2)[0, 1]
        assert scores.metrics["axb_matthews_correlation"] == pytest.approx(correlation)
        assert scores.reasons == {}

    @pytest.mark.parametrize("config", DIAGNOSTICS)
    def test_the_official_schema_is_read(self, config: str, official: Any, tmp_path: Path, byte_level: Any) -> None:
        columns, names = DIAGNOSTICS[config]
        rows = [dict(zip(names, ("It rains.", "It pours."), strict=True)) | {"idx": i, "label": 1} for i in (0, 1)]
        source = official("rte")
        written(tmp_path / config, rows, columns, "test")
        _, examples = self.encoded(byte_level, source)
        assert texts(examples[f"{config}/test"], byte_level) == 2 * ["It rains.It pours."]
        assert examples[f"{config}/test"].labels.tolist() == [1, 1]
        assert len(examples) == 2

    def test_where_the_data_lacks_them_their_scores_are_null_with_the_reason(
        self, official: Any, byte_level: Any
    ) -> None:
        task, examples = self.encoded(byte_level, official("rte"))
        assert list(examples) == ["validation"]
        right = {"validation": task.predict(np.array([[1.0, 0.0]], np.float32), examples["validation"])}
        scores = task.score(right, examples)
        absent = ["axb_matthews_correlation", "axb_accuracy", "axg_accuracy", "axg_gender_parity"]
        assert scores.metrics == {"accuracy": 1.0, **dict.fromkeys(absent)}
        assert scores.reasons == dict.fromkeys(absent, "the data source lacks this diagnostic set")
        assert scores.score == 100
