"""GSM8K: what is trained on, what is asked, and that gold completions are right; prompts shared with other decoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from bench.errors import DataError, SettingsError
from bench.generation import Completion
from bench.settings import DataSettings
from tasks.examples import IGNORED_LABEL
from tasks.locating import resolve
from tasks.prompted import rows
from tasks.sources import Source
from tests.conftest import task_named

ROWS = [
    ("Ann has 2 pens and buys 3. How many?", "She has 2+3=<<2+3=5>>5 pens.\n#### 5"),
    ("Bob paid 1,000 and 80. How much?", "1000 + 80 = $<<1000+80=1080>>1,080.\nThat is all.\n#### 1,080"),
    ("How cold is it, if 3 falls by 5?", "3 - 5 = <<3-5=-2>>-2\n#### -2"),
]
STRIPPED = [
    "She has 2+3=5 pens.\n#### 5",
    "1000 + 80 = $1,080.\nThat is all.\n#### 1,080",
    "3 - 5 = -2\n#### -2",
]


def with_start(tokenizer: Any) -> Any:
    """The tokenizer with a token that begins every text, and one that it puts behind every text."""
    from tokenizers.processors import TemplateProcessing

    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    return tokenizer


@pytest.fixture(params=["byte-level", "stories", "with an end of its own"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Without a start, with a start, and with an end that the tokenizer itself adds; padded with the end."""
    fixture = "tiny_llama" if request.param == "byte-level" else "stories"
    found = AutoTokenizer.from_pretrained(request.getfixturevalue(fixture))
    found.pad_token = found.eos_token
    return with_start(found) if request.param == "with an end of its own" else found


def source(folder: Path, data: Sequence[tuple[str, str]] = ROWS) -> Source:
    columns = dict(zip(("question", "answer"), map(list, zip(*data, strict=True)), strict=True))
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")
    return Source("mirror", folder, "test", "test")


@pytest.mark.parametrize(("annotations", "targets"), [("strip", STRIPPED), ("keep", [answer for _, answer in ROWS])])
def test_trained_tokens_are_the_answer_and_one_end(
    annotations: str, targets: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    task = task_named("gsm8k", annotations=annotations)
    examples = task.encode(source(tmp_path), "train", tokenizer, 512, None)
    batch = examples.batch(np.array([2, 1, 0]))
    assert examples.lengths.argmax() == 1, "the longest row has no padding"
    for row, target in zip((2, 1, 0), zip(batch.inputs["input_ids"], batch.inputs["labels"], strict=True), strict=True):
        tokens, labels = target
        trained = labels[labels != IGNORED_LABEL].tolist()
        assert trained.count(tokenizer.eos_token_id) == 1
        assert trained[-1] == tokenizer.eos_token_id
        whole = tokens[: examples.lengths[row]].tolist()
        assert whole[-len(trained) :] == trained
        assert tokenizer.decode(whole[:-1], skip_special_tokens=True).endswith(f"\nAnswer: {targets[row]}")
        assert tokenizer.decode(trained, skip_special_tokens=True).strip() == targets[row]
    assert batch.tokens == examples.lengths.sum()


def test_the_question_in_training_is_the_question_in_evaluation(tokenizer: Any, tmp_path: Path) -> None:
    task = task_named("gsm8k")
    training, test = (task.encode(source(tmp_path), split, tokenizer, 512, None) for split in ("train", "test"))
    assert training.prompt_lengths.tolist() == test.prompt_lengths.tolist() == test.lengths.tolist()
    asked = test.question(np.arange(3)).inputs
    for row, (question, _) in enumerate(ROWS):
        prompt = test.tokens.row(row).tolist()
        assert training.tokens.row(row)[: len(prompt)].tolist() == prompt
        assert asked["input_ids"][row, -len(prompt) :].tolist() == prompt
        assert tokenizer.decode(prompt, skip_special_tokens=True) == f"Question: {question}\nAnswer:"
        assert tokenizer.eos_token_id not in prompt
        if tokenizer.bos_token_id is not None:
            assert prompt.count(tokenizer.bos_token_id) == 1
            assert prompt[0] == tokenizer.bos_token_id
    assert asked["attention_mask"].sum(1).tolist() == test.prompt_lengths.tolist()
    assert (asked["attention_mask"].diff(dim=1) >= 0).all(), "padded at the start"
    assert "labels" not in asked


@pytest.mark.real_data
def test_every_real_question_is_asked_as_it_was_trained(tokenizer: Any, real_data: Path) -> None:
    task = task_named("gsm8k")
    found = resolve(DataSettings("mirror", str(real_data)), task)
    questions = found.read("train").column("question").to_pylist()
    training = task.encode(found, "train", tokenizer, None, 300)
    for row, number in enumerate(training.ids):
        (asked,) = rows(tokenizer, [task.template.format(question=questions[number])], [""], closed=False)
        assert training.prompt_lengths[row] == asked.prompt_length == len(asked.tokens)
        assert training.tokens.row(row)[: asked.prompt_length].tolist() == asked.tokens


def test_a_target_is_kept_apart_where_a_tokenizer_would_merge_across_the_border(tiny_llama: Path) -> None:
    """With "ab" as one token of "abc", the prompt "a" would be no prefix of the text."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(["<end>", "a", "b", "c", "ab", "bc"])}
    merging = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("b", "c")]))
    merging.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="<end>")
    assert tokenizer("abc")["input_ids"] == [4, 3]
    (row,) = rows(tokenizer, ["a"], ["bc"], closed=True)
    assert (row.tokens, row.prompt_length) == ([1, 5, 0], 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"template": "Question: {qestion}\nAnswer:"},
            "task.template has the field 'qestion'. Did you mean 'question'?",
        ),
        ({"template": "{question}{answer}"}, "task.template has the field 'answer'."),
        ({"template": "Answer:"}, "task.template lacks the field 'question'."),
        ({"template": "Question: {question}\nAnswer: "}, "ends in white space"),
        ({"template": "Question: {question\nAnswer:"}, "task.template cannot be filled"),
        ({"template": "Question: {question:d}\nAnswer:"}, "task.template cannot be filled"),
        ({"annotations": "strp"}, "task.annotations=strp is unknown. Did you mean 'strip'?"),
        ({"form": "merged"}, "task.form=merged is unknown."),
        ({"stops": ["Question:", ""]}, "task.stops has an empty string"),
    ],
)
def test_unusable_settings_get_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        task_named("gsm8k", **settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_examples_that_are_too_long_to_train_on_are_dropped_and_counted(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer, task = AutoTokenizer.from_pretrained(tiny_llama), task_named("gsm8k")
    everything = task.encode(source(tmp_path), "train", tokenizer, None, None)
    limit = int(np.sort(everything.lengths)[1])
    kept = task.encode(source(tmp_path), "train", tokenizer, limit, None)
    assert (everything.dropped, kept.dropped) == (0, 1)
    assert kept.ids.tolist() == [0, 2]
    assert kept.labels.tolist() == ["5", "-2"]
    assert kept.prompt_lengths.tolist() == everything.prompt_lengths[[0, 2]].tolist()
    assert len(task.encode(source(tmp_path), "test", tokenizer, 3, None)) == 3, "no question is ever cut or dropped"
    with pytest.raises(DataError, match="is longer than training"):
        task.encode(source(tmp_path), "train", tokenizer, 3, None)


def test_an_answer_without_its_last_line_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    broken = source(tmp_path, [*ROWS, ("How many?", "There are 5.")])
    with pytest.raises(DataError, match="has an answer without '#### ': 'There are 5"):
        task_named("gsm8k").encode(broken, "train", AutoTokenizer.from_pretrained(tiny_llama), 512, None)


def test_a_tokenizer_without_an_end_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no end-of-sequence token"):
        task_named("gsm8k").encode(source(tmp_path), "train", AutoTokenizer.from_pretrained(tiny_bert), 512, None)


@pytest.mark.real_data
@pytest.mark.parametrize("annotations", ["strip", "keep"])
def test_gold_completions_are_all_right(annotations: str, tiny_llama: Path, real_data: Path) -> None:
    task = task_named("gsm8k", annotations=annotations)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    found = resolve(DataSettings("mirror", str(real_data)), task)
    examples = task.encode(found, "test", tokenizer, 64, None)
    assert len(examples) == 1319
    answers = found.read("test").column("answer").to_pylist()
    columns = task.predict([Completion(task._target(answer), 9, truncated=False) for answer in answers], examples)
    scores = task.score({"test": columns}, {"test": examples})
    assert sum(columns["correct_strict"]) == sum(columns["correct_flexible"]) == 1319
    assert scores.score == 100
    assert scores.metrics["exact_match_strict"] == scores.metrics["exact_match_flexible"] == 1
    assert scores.metrics["exact_match_numeric"] == 1


def test_predictions_say_what_each_rule_read(tiny_llama: Path, tmp_path: Path) -> None:
    task = task_named("gsm8k")
    examples = task.encode(source(tmp_path), "test", AutoTokenizer.from_pretrained(tiny_llama), None, None)
    texts = ["2 and 3 are\n#### 5", "so 1,080 in all", "#### -2\nand 7"]
    made = [Completion(text, tokens, tokens == 300) for text, tokens in zip(texts, (9, 300, 12), strict=True)]
    columns = task.predict(made, examples)
    assert columns == {
        "prediction": ["5", "[invalid]", "-2"],
        "flexible": ["5", "1,080", "7"],
        "correct_strict": [True, False, True],
        "correct_flexible": [True, True, False],
        "generated": texts,
        "new_tokens": [9, 300, 12],
        "truncated": [False, True, False],
    }
    scores = task.score({"test": columns}, {"test": examples})
    assert scores.score == pytest.approx(200 / 3)
    assert scores.metrics["exact_match_strict"] == scores.metrics["exact_match_flexible"] == pytest.approx(2 / 3)
    assert examples.columns["answer"] == [answer for _, answer in ROWS]
    assert examples.labels.tolist() == ["5", "1,080", "-2"]
