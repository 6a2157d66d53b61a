"""SuperGLUE's files as they lie on the hub, with rows that are easy to follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value
from datasets import Sequence as ListOf

from tasks.sources import Source

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
DIAGNOSTICS = {
    "axb": (features("sentence1 sentence2", TWO_WAY), ("sentence1", "sentence2")),
    "axg": (features("premise hypothesis", TWO_WAY), ("premise", "hypothesis")),
}


def written(folder: Path, rows: list[dict[str, Any]], columns: Features | None, split: str = "validation") -> Source:
    """A source that holds the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=columns).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return Source("mirror", folder, "test", "test")


def in_official_schema(folder: Path, config: str, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Source:
    """A source in a config's official schema, with its own rows or with others."""
    columns, own = OFFICIAL[config]
    return written(folder / config, [row | changes for row in (own if rows is None else rows)], columns)


def squeezed(text: str) -> str:
    """Of one case and without spaces and WordPiece's marks: what all tokenizers agree on."""
    return re.sub(r"\s|##", "", text).lower()
