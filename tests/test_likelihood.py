"""Multiple choice by likelihood: the sums against one forward pass per choice, and the two rules of choosing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import evaluation
from bench.backbone.anatomy import Anatomy
from bench.backbone.pretrained import Backbone
from bench.errors import DataError, SettingsError
from bench.settings import DataSettings
from tasks.examples import IGNORED_LABEL, ContinuationExamples
from tasks.locating import resolve
from tasks.sources import Source
from tests.conftest import task_named
from tests.families import language_model
from tests.methods.conftest import method_named

TASKS = ("arc_easy", "arc_challenge", "openbookqa")


def row(question: str, choices: list[str], key: str, labels: str = "ABCDE") -> dict[str, Any]:
    named = {"text": choices, "label": list(labels[: len(choices)])}
    return {"id": question, "question": question, "choices": named, "answerKey": key}


ROWS = [
    row("What is wet?", ["rain", "a stone in the desert", "sand", "fire"], "A"),
    row("Who flies?", ["a dog", "an old eagle", "a fish"], "2", labels="12345"),
    row("How many legs has a cow?", ["two", "three", "five", "six", "four"], "E"),
    row("What do plants need?", ["light", "noise"], "1", labels="1234"),
]
RIGHT = [0, 1, 4, 0]


def source(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Source:
    for split in ("train", "test"):
        Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return Source("mirror", folder, "test", "test")


def arc(**changes: Any) -> Any:
    return task_named("commonsense/arc_easy", **changes)


def log_likelihoods(base: Backbone, examples: ContinuationExamples, batch_size: int) -> np.ndarray:
    return evaluation.outputs(base, examples, batch_size, "cpu", contextlib.nullcontext())


def alone(model: Any, tokens: list[int], context: int) -> float:
    """The sum of the continuation's log-probabilities by one forward pass of one text."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -len(tokens) :].double()
    steps = logits.log_softmax(-1)
    return float(sum(steps[position - 1, tokens[position]] for position in range(context, len(tokens))))


@pytest.fixture(params=["llama", "gpt2", "stories"])
def base(request: pytest.FixtureRequest) -> Backbone:
    """A decoder with its tokenizer."""
    folder = request.getfixturevalue("stories" if request.param == "stories" else "tiny_llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    if request.param == "stories":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        model = language_model(request.param, vocab_size=len(tokenizer), initializer_range=0.3)
    return Backbone(model.eval(), tokenizer, Anatomy(model, model.config.model_type), "test", "likelihood")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_likelihoods_are_those_of_each_choice_alone(batch_size: int, base: Backbone, tmp_path: Path) -> None:
    examples = arc().encode(source(tmp_path), "test", base.preprocessor, 256, None)
    expected = []
    for described in ROWS:
        prompt = f"Question: {described['question']}\nAnswer:"
        context = len(base.preprocessor(prompt)["input_ids"])
        for choice in described["choices"]["text"]:
            tokens = base.preprocessor(f"{prompt} {choice}")["input_ids"]
            expected.append(alone(base.model, tokens, context))
    found = log_likelihoods(base, examples, batch_size)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.dtype == np.float32
    assert (found < -1).all()


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_soft_prompt_shifts_no_label(method: str, byte_level: Any, tmp_path: Path) -> None:
    model = language_model("llama", vocab_size=len(byte_level), initializer_range=0.3)
    base = Backbone(model, byte_level, Anatomy(model, "llama"), "test", "likelihood")
    examples = arc().encode(source(tmp_path), "test", byte_level, 256, None)
    plain = log_likelihoods(base, examples, 4)
    attached = method_named(method, length=5)
    torch.manual_seed(0)
    attached.attach(base, 10)
    found = log_likelihoods(base, examples, 4)
    expected = [
        alone(base.model, examples.tokens.row(i).tolist(), int(length))
        for i, length in enumerate(examples.context_lengths)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(found - plain).max() > 0.01


def test_ragged_choices_have_a_row_each(byte_level: Any, tmp_path: Path) -> None:
    examples = arc().encode(source(tmp_path), "test", byte_level, 256, None)
    assert examples.first_rows.tolist() == [0, 4, 7, 12, 14]
    assert examples.labels.tolist() == RIGHT
    assert examples.characters.tolist()[:4] == [4, 21, 4, 4]
    asked = examples.question(np.array([3, 1]))
    texts = [byte_level.decode(ids, skip_special_tokens=True) for ids in asked.inputs["input_ids"]]
    assert texts[:2] == [f"Question: What do plants need?\nAnswer: {choice}" for choice in ("light", "noise")]
    assert texts[3] == "Question: Who flies?\nAnswer: an old eagle"
    assert (asked.samples, len(texts)) == (2, 5)
    assert examples.lengths.tolist() == [
        max(examples.tokens.lengths[a:b]) for a, b in ((0, 4), (4, 7), (7, 12), (12, 14))
    ]


def test_the_right_choice_alone_is_trained_on(byte_level: Any, tmp_path: Path) -> None:
    batch = arc().encode(source(tmp_path), "train", byte_level, 256, None).batch(np.array([2, 1, 0]))
    texts = [byte_level.decode(labels[labels != IGNORED_LABEL]) for labels in batch.inputs["labels"]]
    assert texts == [" four", " an old eagle", " rain"]
    assert batch.samples == len(batch.inputs["input_ids"]) == 3
    ahead = [ids[: (labels != IGNORED_LABEL).nonzero()[0]] for ids, labels in
             zip(batch.inputs["input_ids"], batch.inputs["labels"], strict=True)]  # fmt: skip
    assert byte_level.decode(ahead[1]) == "Question: Who flies?\nAnswer:"


def test_the_two_rules_by_hand(byte_level: Any, tmp_path: Path) -> None:
    """Sums, then sums per character of the choices' own texts, the space ahead not counted."""
    examples = arc().encode(source(tmp_path), "test", byte_level, 256, None)
    sums = np.array([-4, -8, -6, -9, -10, -11, -9, -5, -5, -5, -5, -5, -3, -2], np.float32)
    # per character: rain -1, the stone -0.38; a dog -2, an old eagle -0.92, a fish -1.5; two, six -1.67, three -1
    columns = arc().predict(sums, examples)
    assert columns["most_likely"].tolist() == [0, 2, 0, 1]
    assert columns["most_likely_normalised"].tolist() == [1, 1, 1, 1]
    assert [len(values) for values in columns["log_likelihoods"]] == [4, 3, 5, 2]
    assert columns["log_likelihoods"][3].tolist() == [-3, -2]
    scores = arc().score({"test": columns}, {"test": examples})
    assert scores.metrics == {"accuracy": 0.25, "accuracy_normalised": 0.25}
    sums[0], sums[-2:] = -1, (-1, -4)
    for headline, score in (("accuracy", 50), ("accuracy_normalised", 75)):
        task = arc(headline=headline)
        columns = task.predict(sums, examples)
        rule = {"accuracy": "most_likely", "accuracy_normalised": "most_likely_normalised"}[headline]
        assert columns["prediction"].tolist() == columns[rule].tolist()
        assert task.score({"test": columns}, {"test": examples}).score == score


def test_permuting_the_choices_with_the_key_leaves_the_result(base: Backbone, tmp_path: Path) -> None:
    turned = [
        row(described["question"], described["choices"]["text"][::-1], label, labels="ABCDE")
        for described, right in zip(ROWS, RIGHT, strict=True)
        for label in "ABCDE"[len(described["choices"]["text"]) - 1 - right]
    ]
    chosen, metrics = [], []
    for name, rows in (("plain", ROWS), ("turned", turned)):
        (tmp_path / name).mkdir()
        examples = arc().encode(source(tmp_path / name, rows), "test", base.preprocessor, 256, None)
        columns = arc().predict(log_likelihoods(base, examples, 2), examples)
        answered = zip(rows, columns["prediction"], strict=True)
        chosen.append([described["choices"]["text"][position] for described, position in answered])
        metrics.append(arc().score({"test": columns}, {"test": examples}).metrics)
    assert chosen[0] == chosen[1]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (row("Who?", ["he", "she"], "C"), r"the key 'C' for choices labelled \['A', 'B'\]"),
        (row("Who?", ["he", "she"], "A", labels="12"), r"the key 'A' for choices labelled \['1', '2'\]"),
        (row("Who?", ["he", ""], "A"), "has an empty choice: 'Who\\?'"),
        (row("Who?", [], "A"), r"the key 'A' for choices labelled \[\]"),
    ],
)
def test_unusable_questions_are_refused(broken: dict[str, Any], message: str, byte_level: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        arc().encode(source(tmp_path, [*ROWS, broken]), "test", byte_level, 256, None)


def test_unusable_settings_get_one_sentence() -> None:
    with pytest.raises(SettingsError, match=r"task.headline=acc is unknown. Did you mean 'accuracy'\?"):
        arc(headline="acc")
    with pytest.raises(SettingsError, match="lacks the field 'question'"):
        arc(template="Answer:")


def test_questions_that_are_too_long_to_train_on_are_dropped_and_counted(byte_level: Any, tmp_path: Path) -> None:
    everything = arc().encode(source(tmp_path), "train", byte_level, None, None)
    limit = int(np.sort(everything.lengths)[2])
    kept = arc().encode(source(tmp_path), "train", byte_level, limit, None)
    assert (everything.dropped, kept.dropped) == (0, 1)
    assert kept.labels.tolist() == [RIGHT[i] for i in kept.ids]
    assert kept.first_rows[-1] == len(kept.tokens.lengths) == len(kept.characters) == len(kept.context_lengths)
    assert len(arc().encode(source(tmp_path), "test", byte_level, 4, None)) == len(ROWS)


@pytest.mark.parametrize("name", TASKS)
def test_every_sample_encodes(name: str, byte_level: Any) -> None:
    task = task_named(f"commonsense/{name}")
    found = resolve(DataSettings("sample"), task)
    for split in ("train", *task.reported_splits):
        examples = task.encode(found, split, byte_level, task.max_length, None)
        assert len(examples) >= 60
        rows = found.read(split).to_pylist()
        assert [
            described["choices"]["label"][right] for described, right in zip(rows, examples.labels, strict=True)
        ] == [described["answerKey"] for described in rows]
