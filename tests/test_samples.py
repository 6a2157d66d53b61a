"""The built-in samples look like the hub's files, keep train and validation apart, and can be regenerated."""

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "tasks" / "samples"
GLUE, SUPERGLUE, ARC, OPENBOOKQA = "nyu-mll/glue", "aps/super_glue", "allenai/ai2_arc", "allenai/openbookqa"
GLUE_CONFIGS = {  # text columns and label names in the order of the hub repository; stsb has a score instead
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "stsb": (("sentence1", "sentence2"), ()),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment")),
}
GLUE_VALIDATION = [(config, "validation") for config in GLUE_CONFIGS if config != "mnli"]
GLUE_VALIDATION += [("mnli", "validation_matched"), ("mnli", "validation_mismatched")]
GLUE_SPLITS = [(config, "train") for config in GLUE_CONFIGS] + GLUE_VALIDATION

FALSE_TRUE, TWO_WAY = ("False", "True"), ("entailment", "not_entailment")
SUPERGLUE_CONFIGS = {  # columns before idx and label, label names (none: no label), a text that no two splits share
    "boolq": ("question passage", FALSE_TRUE, "passage"),
    "cb": ("premise hypothesis", ("entailment", "contradiction", "neutral"), "premise"),
    "copa": ("premise choice1 choice2 question", ("choice1", "choice2"), "premise"),
    "multirc": ("paragraph question answer", FALSE_TRUE, "paragraph"),
    "record": ("passage query entities entity_spans answers", (), "passage"),
    "rte": ("premise hypothesis", TWO_WAY, "premise"),
    "wic": ("word sentence1 sentence2 start1 start2 end1 end2", FALSE_TRUE, "sentence1"),
    "wsc.fixed": ("text span1_index span2_index span1_text span2_text", FALSE_TRUE, "text"),
    "axb": ("sentence1 sentence2", TWO_WAY, "sentence1"),
    "axg": ("premise hypothesis", TWO_WAY, "premise"),
}
STRINGS, INTEGERS = pa.list_(pa.string()), pa.list_(pa.int32())
TYPES = {  # of the columns that hold neither one string nor one int32
    "entities": STRINGS,
    "entity_spans": pa.struct([("text", STRINGS), ("start", INTEGERS), ("end", INTEGERS)]),
    "answers": STRINGS,
    "label": pa.int64(),
}
IDX_TYPES = {
    "multirc": pa.struct([("paragraph", pa.int32()), ("question", pa.int32()), ("answer", pa.int32())]),
    "record": pa.struct([("passage", pa.int32()), ("query", pa.int32())]),
}
DIAGNOSTICS = ("axb", "axg")
BOTH_SPLITS = ("train", "validation")
SUPERGLUE_SPLITS = [(name, split) for name in SUPERGLUE_CONFIGS if name not in DIAGNOSTICS for split in BOTH_SPLITS]
SUPERGLUE_SPLITS += [(config, "test") for config in DIAGNOSTICS]
LABELLED = [(config, split) for config, split in SUPERGLUE_SPLITS if SUPERGLUE_CONFIGS[config][1]]

CHOICE_CONFIGS = [(ARC, "ARC-Easy"), (ARC, "ARC-Challenge"), (OPENBOOKQA, "main")]
CHOICE_SPLITS = [(*config, split) for config in CHOICE_CONFIGS for split in ("train", "validation", "test")]
QUESTION_COLUMN = {ARC: "question", OPENBOOKQA: "question_stem"}

ALL_FILES = [(GLUE, *split) for split in GLUE_SPLITS] + [(SUPERGLUE, *split) for split in SUPERGLUE_SPLITS]
ALL_FILES += CHOICE_SPLITS


def _path(directory: Path, repository: str, config: str, split: str) -> Path:
    return directory / repository / config / f"{split}-00000-of-00001.parquet"


def _rows(repository: str, config: str, split: str) -> list[dict[str, Any]]:
    return pq.read_table(_path(SAMPLES, repository, config, split)).to_pylist()


def _glue_texts(config: str, split: str) -> list[tuple[str, ...]]:
    return [tuple(row[column] for column in GLUE_CONFIGS[config][0]) for row in _rows(GLUE, config, split)]


def _right_choice(row: dict[str, Any]) -> str:
    return row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two directories, each written by a process of its own with another hash seed."""
    directories = [tmp_path_factory.mktemp("samples") for _ in range(2)]
    for hash_seed, directory in enumerate(directories, start=1):
        command = [sys.executable, str(ROOT / "scripts" / "make_samples.py"), str(directory)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)})
    return directories


@pytest.mark.parametrize(("config", "split"), GLUE_SPLITS)
def test_glue_sample_has_columns_and_label_names_of_the_hub(config: str, split: str) -> None:
    columns, label_names = GLUE_CONFIGS[config]
    schema = pq.read_schema(_path(SAMPLES, GLUE, config, split))
    label_type = pa.int64() if label_names else pa.float32()
    assert list(zip(schema.names, schema.types, strict=True)) == [
        *((column, pa.string()) for column in columns),
        ("label", label_type),
        ("idx", pa.int32()),
    ]
    label_feature = Features.from_arrow_schema(schema)["label"]
    assert label_feature == (ClassLabel(names=list(label_names)) if label_names else Value("float32"))


@pytest.mark.parametrize(("config", "split"), GLUE_SPLITS)
def test_every_glue_class_occurs_and_no_other(config: str, split: str) -> None:
    labels = [row["label"] for row in _rows(GLUE, config, split)]
    if config == "stsb":
        assert min(labels) == 0.0
        assert max(labels) == 5.0
    else:
        assert set(labels) == set(range(len(GLUE_CONFIGS[config][1])))


@pytest.mark.parametrize(("config", "split"), GLUE_VALIDATION)
def test_no_glue_validation_row_occurs_in_train(config: str, split: str) -> None:
    first_texts_of_train = {texts[0] for texts in _glue_texts(config, "train")}
    assert first_texts_of_train.isdisjoint(texts[0] for texts in _glue_texts(config, split))


@pytest.mark.parametrize(("config", "split"), GLUE_SPLITS)
def test_glue_rows_are_distinct(config: str, split: str) -> None:
    rows = _glue_texts(config, split)
    assert len(rows) == (600 if split == "train" else 200)
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(("config", "split"), SUPERGLUE_SPLITS)
def test_superglue_sample_has_columns_types_and_label_names_of_the_hub(config: str, split: str) -> None:
    columns, label_names, _ = SUPERGLUE_CONFIGS[config]
    schema = pq.read_schema(_path(SAMPLES, SUPERGLUE, config, split))
    assert schema.names == [*columns.split(), "idx", *(("label",) if label_names else ())]
    for name, arrow_type in zip(schema.names, schema.types, strict=True):
        scalar = pa.int32() if name == "idx" or re.match(r"start|end\d|span\d_index", name) else pa.string()
        assert arrow_type == (IDX_TYPES.get(config, scalar) if name == "idx" else TYPES.get(name, scalar)), name
    if label_names:
        assert Features.from_arrow_schema(schema)["label"] == ClassLabel(names=list(label_names))


@pytest.mark.parametrize(("config", "split"), LABELLED)
def test_no_class_decides_a_superglue_sample(config: str, split: str) -> None:
    counts = Counter(row["label"] for row in _rows(SUPERGLUE, config, split))
    assert set(counts) == set(range(len(SUPERGLUE_CONFIGS[config][1])))
    assert max(counts.values()) <= 0.65 * counts.total()


@pytest.mark.parametrize("config", [config for config in SUPERGLUE_CONFIGS if config not in DIAGNOSTICS])
def test_superglue_validation_shares_no_text_with_train(config: str) -> None:
    column = SUPERGLUE_CONFIGS[config][2]
    train, validation = ({row[column] for row in _rows(SUPERGLUE, config, split)} for split in BOTH_SPLITS)
    assert train.isdisjoint(validation)


@pytest.mark.parametrize(("config", "split"), [pair for pair in LABELLED if pair[0] != "multirc"])
def test_superglue_rows_are_numbered(config: str, split: str) -> None:
    rows = _rows(SUPERGLUE, config, split)
    assert [row["idx"] for row in rows] == list(range({"train": 300, "validation": 100, "test": 120}[split]))


@pytest.mark.parametrize("split", BOTH_SPLITS)
def test_boolq_question_is_lower_case_and_its_years_decide_who_is_older(split: str) -> None:
    decided = 0
    for row in _rows(SUPERGLUE, "boolq", split):
        assert row["question"] == row["question"].lower()
        assert not row["question"].endswith("?")
        years = dict(re.findall(r"(the [\w ]+) was opened in (\d+)", row["passage"].lower()))
        if years:
            in_question = sorted(years, key=row["question"].index)
            assert row["label"] == (years[in_question[0]] < years[in_question[1]])
            decided += 1
    assert decided >= 10


@pytest.mark.parametrize("split", BOTH_SPLITS)
def test_copa_asks_for_causes_and_effects_alike(split: str) -> None:
    asked = Counter((row["question"], row["label"]) for row in _rows(SUPERGLUE, "copa", split))
    assert set(asked) == {(question, label) for question in ("cause", "effect") for label in (0, 1)}
    assert max(asked.values()) <= 0.35 * asked.total()


@pytest.mark.parametrize("split", BOTH_SPLITS)
def test_multirc_keeps_the_options_of_a_question_together(split: str) -> None:
    rows = _rows(SUPERGLUE, "multirc", split)
    groups = defaultdict(list)
    for row in rows:
        groups[row["idx"]["question"]].append(row)
    assert [row["idx"]["answer"] for row in rows] == list(range(len(rows)))
    assert all(0 <= later["idx"]["question"] - row["idx"]["question"] <= 1 for row, later in pairwise(rows))
    for group in groups.values():
        assert len({(row["paragraph"], row["question"], row["idx"]["paragraph"]) for row in group}) == 1
        assert {row["label"] for row in group} == {0, 1}
        assert 3 <= len(group) <= 6
        assert len({row["answer"] for row in group}) == len(group)


@pytest.mark.parametrize("split", BOTH_SPLITS)
def test_multirc_answer_is_right_if_a_sentence_says_it_of_the_person_asked_about(split: str) -> None:
    for row in _rows(SUPERGLUE, "multirc", split):
        (person,) = set(re.findall(r"[A-Z]\w+", row["question"][1:]))
        sentences = [text for text in row["paragraph"].split(". ") if text.startswith(f"{person} ")]
        assert row["label"] == any(re.search(rf"\b{row['answer']}\b", text) for text in sentences)


@pytest.mark.parametrize("split", BOTH_SPLITS)
def test_record_spans_cut_the_entities_out_of_the_passage(split: str) -> None:
    for row in _rows(SUPERGLUE, "record", split):
        texts, starts, ends = (row["entity_spans"][name] for name in ("text", "start", "end"))
        assert [row["passage"][start:end] for start, end in zip(starts, ends, strict=True)] == texts
        assert sorted(set(texts)) == sorted(row["entities"])
        assert 3 <= len(row["entities"]) <= 6


@pytest.mark.parametrize("split", BOTH_SPLITS)
def test_record_query_has_one_gap_that_only_answers_fill(split: str) -> None:
    rows = _rows(SUPERGLUE, "record", split)
    assert [row["idx"]["query"] for row in rows] == list(range(len(rows)))
    assert len({row["passage"] for row in rows}) == len({row["idx"]["passage"] for row in rows}) < len(rows)
    for row in rows:
        assert row["query"].count("@placeholder") == 1
        assert re.search(r"\n@highlight\n[^\n]+\Z", row["passage"])
        assert row["answers"] == sorted(set(row["answers"]) & set(row["entities"])) != []
        assert not any(answer in row["query"] for answer in row["answers"])


@pytest.mark.parametrize("split", BOTH_SPLITS)
def test_wic_offsets_mark_a_form_of_the_word(split: str) -> None:
    rows = _rows(SUPERGLUE, "wic", split)
    forms = [(row["word"], row[f"sentence{i}"][row[f"start{i}"] : row[f"end{i}"]]) for row in rows for i in (1, 2)]
    assert all(form.isalpha() and form.lower().startswith(word) for word, form in forms)
    assert 0.1 < sum(form.lower() != word for word, form in forms) / len(forms) < 0.5


@pytest.mark.parametrize("split", BOTH_SPLITS)
def test_wsc_indices_count_the_words_before_the_spans(split: str) -> None:
    for row in _rows(SUPERGLUE, "wsc.fixed", split):
        words = row["text"].split()
        span1 = row["span1_text"].split()
        assert words[row["span1_index"] : row["span1_index"] + len(span1)] == span1
        assert words[row["span2_index"]] == row["span2_text"]
        assert row["span2_text"] in ("he", "she", "it")


def test_axg_pairs_differ_in_the_pronoun_alone() -> None:
    rows = _rows(SUPERGLUE, "axg", "test")
    for woman, man in zip(rows[::2], rows[1::2], strict=True):
        assert (woman["hypothesis"], woman["label"]) == (man["hypothesis"], man["label"])
        assert woman["premise"].split() != man["premise"].split()
        assert [{"he": "she"}.get(word, word) for word in man["premise"].split()] == woman["premise"].split()


@pytest.mark.parametrize(("repository", "config", "split"), CHOICE_SPLITS)
def test_choice_sample_has_columns_and_types_of_the_hub(repository: str, config: str, split: str) -> None:
    schema = pq.read_schema(_path(SAMPLES, repository, config, split))
    assert list(zip(schema.names, schema.types, strict=True)) == [
        ("id", pa.string()),
        (QUESTION_COLUMN[repository], pa.string()),
        ("choices", pa.struct([("text", STRINGS), ("label", STRINGS)])),
        ("answerKey", pa.string()),
    ]
    assert len(_rows(repository, config, split)) == (200 if split == "train" else 60)


@pytest.mark.parametrize(("repository", "config", "split"), CHOICE_SPLITS)
def test_right_choice_stands_everywhere_equally_often(repository: str, config: str, split: str) -> None:
    rows = _rows(repository, config, split)
    positions = Counter(row["choices"]["label"].index(row["answerKey"]) for row in rows)
    assert sorted(positions.items()) == [(position, len(rows) // 4) for position in range(4)]
    labels = Counter("".join(row["choices"]["label"]) for row in rows)
    assert labels == (
        {"ABCD": len(rows)} if repository == OPENBOOKQA else {"ABCD": 0.9 * len(rows), "1234": 0.1 * len(rows)}
    )


@pytest.mark.parametrize(("repository", "config"), CHOICE_CONFIGS)
def test_choices_are_four_and_no_question_returns_with_the_same(repository: str, config: str) -> None:
    rows = [row for split in ("train", "validation", "test") for row in _rows(repository, config, split)]
    asked = {(row[QUESTION_COLUMN[repository]], frozenset(row["choices"]["text"])) for row in rows}
    assert len(asked) == len(rows) == len({row["id"] for row in rows})
    assert {len(set(row["choices"]["text"])) for row in rows} == {4}


@pytest.mark.parametrize(("repository", "config"), CHOICE_CONFIGS)
def test_right_choice_of_a_sum_is_its_result(repository: str, config: str) -> None:
    signs = {"gets": 1, "finds": 1, "loses": -1, "gives": -1}
    sums = 0
    for row in _rows(repository, config, "train"):
        story = re.search(r"has (\d+) \w+,? (?:and )?(.*)", row[QUESTION_COLUMN[repository]])
        if story:
            changes = re.findall(r"(gets|finds|loses|gives) (\d+)", story[2])
            result = int(story[1]) + sum(signs[verb] * int(count) for verb, count in changes)
            assert _right_choice(row).split()[0] == str(result)
            sums += 1
    assert sums >= 15


def test_right_choice_of_the_larger_number_is_larger() -> None:
    for row in _rows(ARC, "ARC-Easy", "train"):
        if row["question"] == "Which number is larger than the other three?":
            assert int(_right_choice(row)) == max(map(int, row["choices"]["text"]))


@pytest.mark.parametrize(("repository", "config", "split"), ALL_FILES)
def test_file_is_small(repository: str, config: str, split: str) -> None:
    assert _path(SAMPLES, repository, config, split).stat().st_size < 60_000


@pytest.mark.parametrize(("repository", "config", "split"), ALL_FILES)
def test_regenerating_gives_identical_bytes(regenerated: list[Path], repository: str, config: str, split: str) -> None:
    first, second = (_path(directory, repository, config, split) for directory in regenerated)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("repository", "config", "split"), ALL_FILES)
def test_committed_sample_is_what_the_script_generates(
    regenerated: list[Path], repository: str, config: str, split: str
) -> None:
    # Rows instead of bytes, because a file also names the pyarrow version that wrote it.
    committed, again = (pq.read_table(_path(folder, repository, config, split)) for folder in (SAMPLES, regenerated[0]))
    assert committed.equals(again)
