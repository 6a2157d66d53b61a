"""The word problem sample is sound, the shipped tiny decoder has learnt to count, and both can be made again."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.pretraining import arithmetic, decoder
from scripts.samples import gsm8k, word_problems

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "tasks" / "samples" / "openai" / "gsm8k" / "main"
MODEL = ROOT / "bench" / "models" / "tiny-llama"
ANNOTATION = re.compile(r"(\d+) ([-+*/]) (\d+) = <<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")
APPLIED = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}


def _shipped(split: str) -> list[dict[str, str]]:
    return pq.read_table(SAMPLE / f"{split}-00000-of-00001.parquet").to_pylist()


@pytest.mark.parametrize(("split", "count"), [("train", 1500), ("test", 250)])
def test_shipped_problems_are_what_the_generator_writes(split: str, count: int) -> None:
    rows = _shipped(split)
    assert len(rows) == count
    assert all(list(row) == ["question", "answer"] for row in rows)
    assert rows == gsm8k.rows(split)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_worked_line_is_right_and_the_last_result_is_the_answer(split: str) -> None:
    for row in _shipped(split):
        *lines, final = row["answer"].split("\n")
        results = []
        for line in lines:
            ((left, operator, right, *annotation, result),) = ANNOTATION.findall(line)
            assert annotation == [left, operator, right, result]
            assert APPLIED[operator](int(left), int(right)) == int(result)
            assert operator != "/" or int(left) % int(right) == 0
            results.append(result)
        assert len(results) >= 2
        assert final == f"#### {results[-1]}"
        assert 1 <= int(results[-1]) <= word_problems.LARGEST_RESULT


def test_a_question_is_one_line_and_occurs_once_in_both_splits_together() -> None:
    questions = [row["question"] for split in gsm8k.ROWS for row in _shipped(split)]
    assert len(set(questions)) == 1750
    assert not any("\n" in question or "{" in question for question in questions)


def test_writing_the_sample_twice_gives_the_same_small_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        gsm8k.write(tmp_path / name)
    for split in gsm8k.ROWS:
        first, second = (tmp_path / name / f"main/{split}-00000-of-00001.parquet" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size < 150_000


def test_pretraining_text_has_neither_the_questions_nor_the_layout_of_the_sample() -> None:
    text = "\n".join(itertools.islice(arithmetic.documents(decoder.SEED), 20_000))
    assert not any(mark in text for mark in ("Question", "Answer", "####", "<<"))
    assert not any(row["question"] in text for row in _shipped("test"))


def test_sums_of_the_pretraining_text_are_right() -> None:
    text = "\n".join(itertools.islice(arithmetic.documents(decoder.SEED), 2_000))
    sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text)
    assert len(sums) > 5_000
    assert all(APPLIED[operator](int(left), int(right)) == int(result) for left, operator, right, result in sums)


def test_shipped_weights_are_bfloat16_of_at_most_8_megabytes() -> None:
    assert (MODEL / "model.safetensors").stat().st_size <= 8_000_000
    assert AutoModelForCausalLM.from_pretrained(MODEL).dtype == torch.bfloat16


TEXTS = ["7 + 15 = 22", "So  the result\nis 12.", "#### 1,080 <<3/4=0.75>>", "Größe: 5 €, 漢字 🙂"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_gives_back_every_text_after_one_bos_and_no_eos(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == tokenizer.bos_token + text
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


def test_every_digit_is_a_token_of_its_own() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokens = [tokenizer.decode([token]) for token in tokenizer("12 + 345=357", add_special_tokens=False)["input_ids"]]
    assert [token.strip() for token in tokens if any(character.isdigit() for character in token)] == list("12345357")


def test_shipped_model_finds_right_sums_likelier_than_an_untrained_one() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer("Mara has 6 + 7 = 13 apples. So the result is 13.", return_tensors="pt")["input_ids"]
    trained = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        losses = [model(input_ids=ids, labels=ids).loss for model in (trained, decoder.new_model(tokenizer))]
    assert losses[0] < losses[1] / 2


def test_shipped_model_adds() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    ids = tokenizer("7 + 8 = 15. 31 + 14 =", return_tensors="pt")["input_ids"]
    generated = model.generate(input_ids=ids, max_new_tokens=2)[0, ids.shape[1] :]
    assert tokenizer.decode(generated) == " 45"


def test_pretraining_twice_gives_equal_weights() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    (first, loss), (second, _) = (decoder.train_model(tokenizer, steps=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    untrained = decoder.new_model(tokenizer).parameters()
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), untrained, strict=True))
    assert loss > 0


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    factors = [decoder.rate_factor(step, 1100) for step in (0, 99, 100, 600, 1100)]
    assert factors == pytest.approx([0.01, 1.0, 1.0, 0.5, 0.0])
