"""Samples of the SuperGLUE tasks and both diagnostic sets, in the layout of the hub repository aps/super_glue.

As on the hub, `idx` is a row number, but names paragraph, question and answer in multirc, and passage and query in
record. The diagnostic sets have a split `test` only, with labels.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value

from scripts.samples.causes import causes_and_effects
from scripts.samples.coreference import gender_pair, winograd
from scripts.samples.drawing import draw_unseen, labels_in_shares
from scripts.samples.files import write_split
from scripts.samples.inference import commitment, diagnostic, rte
from scripts.samples.news import news_item
from scripts.samples.reading import boolq, story_with_questions
from scripts.samples.text import Texts
from scripts.samples.word_senses import word_in_context

REPOSITORY = "aps/super_glue"
SEED = 18

Row = dict[str, Any]
RowMaker = Callable[[random.Random, int, set[str]], list[Row]]  # random state, count, texts seen -> rows


@dataclass(frozen=True)
class SuperglueConfig:
    """One hub config: what makes the rows of a split, their types, and the count (of units) in each split."""

    make_rows: RowMaker
    features: Features
    counts: Mapping[str, int]


def _shuffled_labels(rng: random.Random, shares: tuple[float, ...], count: int) -> list[int]:
    """Labels in random order, of which each has its share."""
    labels = labels_in_shares(shares, count)
    rng.shuffle(labels)
    return labels


def _labelled_rows(
    rng: random.Random,
    count: int,
    seen: set[str],
    *,
    generator: Callable[[random.Random, int], tuple[Any, ...]],
    columns: Texts,
    distinct: str,
    shares: tuple[float, ...],
) -> list[Row]:
    """Rows that differ in the text of column `distinct`."""
    position, rows = columns.index(distinct), []
    for idx, label in enumerate(_shuffled_labels(rng, shares, count)):
        cells = draw_unseen(partial(generator, rng, label), lambda drawn: str(drawn[position]), seen)
        rows.append({**dict(zip(columns, cells, strict=True)), "idx": idx, "label": label})
    return rows


def _gender_rows(rng: random.Random, count: int, seen: set[str]) -> list[Row]:
    """Two neighbouring rows for each of `count` pairs."""
    rows: list[Row] = []
    for label in _shuffled_labels(rng, (0.5, 0.5), count):
        for premise, hypothesis in draw_unseen(partial(gender_pair, rng, label), lambda pair: pair[0][0], seen):
            rows.append({"premise": premise, "hypothesis": hypothesis, "idx": len(rows), "label": label})
    return rows


def _multirc_rows(rng: random.Random, count: int, seen: set[str]) -> list[Row]:
    """One row for each option of each question on each of `count` paragraphs."""
    rows: list[Row] = []
    question_count = 0
    for paragraph_id in range(count):
        paragraph, questions = draw_unseen(partial(story_with_questions, rng), lambda drawn: drawn[0], seen)
        for question_id, (question, options) in enumerate(questions, start=question_count):
            for answer, right in options:
                idx = {"paragraph": paragraph_id, "question": question_id, "answer": len(rows)}
                cells = {"paragraph": paragraph, "question": question, "answer": answer}
                rows.append({**cells, "idx": idx, "label": int(right)})
        question_count += len(questions)
    return rows


def _record_rows(rng: random.Random, count: int, seen: set[str]) -> list[Row]:
    """One row for each query on each of `count` passages."""
    rows: list[Row] = []
    for passage_id in range(count):
        item = draw_unseen(partial(news_item, rng), lambda drawn: drawn.passage, seen)
        spans = {name: [getattr(mention, name) for mention in item.mentions] for name in ("text", "start", "end")}
        for query, answers in item.queries:
            idx = {"passage": passage_id, "query": len(rows)}
            cells = {"passage": item.passage, "query": query, "entities": item.entities, "entity_spans": spans}
            rows.append({**cells, "answers": list(answers), "idx": idx})
    return rows


STRING, INTEGER = Value("string"), Value("int32")
FALSE_TRUE = ClassLabel(names=["False", "True"])
TWO_WAY = ClassLabel(names=["entailment", "not_entailment"])
THREE_WAY = ClassLabel(names=["entailment", "contradiction", "neutral"])  # another order than MNLI's
USUAL_COUNTS, TEST_ROWS = {"train": 300, "validation": 100}, 120
PAIR = {"premise": STRING, "hypothesis": STRING}


def _labelled(
    generator: Callable[[random.Random, int], tuple[Any, ...]],
    columns: dict[str, Value],
    label: ClassLabel,
    *,
    distinct: str = "premise",
    shares: tuple[float, ...] = (0.5, 0.5),
    counts: Mapping[str, int] = USUAL_COUNTS,
) -> SuperglueConfig:
    """A config of independent rows, whose generator makes the cells of one row for a label id."""
    make_rows = partial(_labelled_rows, generator=generator, columns=tuple(columns), distinct=distinct, shares=shares)
    return SuperglueConfig(make_rows, Features({**columns, "idx": INTEGER, "label": label}), counts)


def _texts(*columns: str) -> dict[str, Value]:
    return dict.fromkeys(columns, STRING)


def _integers(*columns: str) -> dict[str, Value]:
    return dict.fromkeys(columns, INTEGER)


WIC_COLUMNS = _texts("word", "sentence1", "sentence2") | _integers("start1", "start2", "end1", "end2")
WSC_COLUMNS = _texts("text") | _integers("span1_index", "span2_index") | _texts("span1_text", "span2_text")
MULTIRC_FEATURES = Features(
    {
        **_texts("paragraph", "question", "answer"),
        "idx": _integers("paragraph", "question", "answer"),
        "label": FALSE_TRUE,
    }
)
RECORD_FEATURES = Features(
    {
        **_texts("passage", "query"),
        "entities": List(STRING),
        "entity_spans": {"text": List(STRING), "start": List(INTEGER), "end": List(INTEGER)},
        "answers": List(STRING),
        "idx": _integers("passage", "query"),
    }
)
CONFIGS = {
    "boolq": _labelled(boolq, _texts("question", "passage"), FALSE_TRUE, distinct="passage", shares=(0.4, 0.6)),
    "cb": _labelled(commitment, PAIR, THREE_WAY, shares=(0.4, 0.4, 0.2)),
    "copa": _labelled(
        causes_and_effects,
        _texts("premise", "choice1", "choice2", "question"),
        ClassLabel(names=["choice1", "choice2"]),
    ),
    "multirc": SuperglueConfig(_multirc_rows, MULTIRC_FEATURES, {"train": 24, "validation": 7}),
    "record": SuperglueConfig(_record_rows, RECORD_FEATURES, {"train": 100, "validation": 34}),
    "rte": _labelled(rte, PAIR, TWO_WAY),
    "wic": _labelled(word_in_context, WIC_COLUMNS, FALSE_TRUE, distinct="sentence1"),
    "wsc.fixed": _labelled(winograd, WSC_COLUMNS, FALSE_TRUE, distinct="text"),
    "axb": _labelled(
        diagnostic, _texts("sentence1", "sentence2"), TWO_WAY, distinct="sentence1", counts={"test": TEST_ROWS}
    ),
    "axg": SuperglueConfig(
        _gender_rows, Features({**PAIR, "idx": INTEGER, "label": TWO_WAY}), {"test": TEST_ROWS // 2}
    ),
}


def make_split(name: str, split: str, seen: set[str]) -> Dataset:
    """Rows of one split, whose texts are not among `seen`, to which they are added."""
    config = CONFIGS[name]
    rows = config.make_rows(random.Random(f"{SEED} {name} {split}"), config.counts[split], seen)
    return Dataset.from_list(rows, features=config.features)


def write(folder: Path) -> None:
    """Write every split of every config below <folder>/aps/super_glue."""
    for name, config in CONFIGS.items():
        seen: set[str] = set()
        for split in config.counts:
            write_split(make_split(name, split, seen), folder / REPOSITORY, name, split)
