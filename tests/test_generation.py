"""Greedy completions: those of transformers' own `generate`, whatever the batch, the stops and the method."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import evaluation, generation
from bench.backbone.anatomy import Anatomy
from bench.backbone.pretrained import Backbone
from bench.generation import Completion, Decoding
from tasks.examples import PromptedExamples, Tokens
from tests.families import language_model
from tests.methods.conftest import method_named

NEW_TOKENS = 18
PROMPT_LENGTHS = (3, 11, 7, 7, 1, 16, 5, 9, 12)
MODELS = ("llama", "gpt2", "stories")
Model = Callable[[str], Any]


class Numbers:
    """In place of a tokenizer: a text is the numbers of its tokens."""

    eos_token_id: int | None = None

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, tokens))


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Model:
    """A decoder by name, in float32 and without an end: a pretrained one, or a random one whose completions vary."""

    def load(name: str) -> Any:
        if name == "stories":
            decoder = AutoModelForCausalLM.from_pretrained(request.getfixturevalue("stories"), dtype=torch.float32)
        else:
            decoder = language_model(name, initializer_range=0.3)
        decoder.generation_config.eos_token_id = None
        return decoder.eval()

    return load


def base(model: Any, tokenizer: Any = None) -> Backbone:
    return Backbone(model, tokenizer or Numbers(), Anatomy(model, model.config.model_type), "test", "generation")


def prompts(vocabulary: int, lengths: Sequence[int] = PROMPT_LENGTHS) -> list[list[int]]:
    """Random prompts without the special tokens, which have the lowest numbers."""
    random = np.random.default_rng(5)
    return [random.integers(3, vocabulary, length).tolist() for length in lengths]


def examples(rows: Sequence[Sequence[int]]) -> PromptedExamples:
    positions, lengths = np.arange(len(rows)), np.array([len(row) for row in rows])
    return PromptedExamples(Tokens.of(rows, padding_id=0), positions, positions, prompt_lengths=lengths)


def completions(
    backbone: Backbone, rows: Sequence[Sequence[int]], batch_size: int, decoding: Decoding | None = None
) -> list[Completion]:
    decoding = decoding or Decoding(NEW_TOKENS, ())
    return generation.complete(backbone, examples(rows), decoding, batch_size, "cpu", contextlib.nullcontext())


def generated(model: Any, prompt: Sequence[int], new_tokens: int = NEW_TOKENS) -> list[int]:
    """What transformers generates from one prompt alone, end-of-sequence token included."""
    ids = torch.tensor([list(prompt)])
    with torch.no_grad():
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0
        )
    return found[0, len(prompt) :].tolist()


def text(tokens: Sequence[int]) -> str:
    return Numbers().decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("name", MODELS)
def test_completions_are_those_of_transformers_token_for_token(name: str, batch_size: int, model: Model) -> None:
    decoder = model(name)
    rows = prompts(decoder.config.vocab_size)
    expected = [generated(decoder, row) for row in rows]
    assert len({tuple(tokens) for tokens in expected}) == len(rows), "each prompt has a completion of its own"
    found = completions(base(decoder), rows, batch_size)
    assert [completion.text for completion in found] == [text(tokens) for tokens in expected]
    assert all(completion.new_tokens == NEW_TOKENS and completion.truncated for completion in found)


@pytest.mark.parametrize("new_tokens", [1, 7, 8, 9, 16, 17])
def test_no_more_tokens_are_made_than_the_limit(new_tokens: int, model: Model) -> None:
    decoder = model("llama")
    rows = prompts(decoder.config.vocab_size, (4, 6))
    found = completions(base(decoder), rows, 2, Decoding(new_tokens, ()))
    assert [completion.text for completion in found] == [text(generated(decoder, row, new_tokens)) for row in rows]
    assert [completion.new_tokens for completion in found] == [new_tokens, new_tokens]


@dataclass(frozen=True)
class Ending:
    """A decoder with a token that ends some of its completions, at different steps; prompts and their completions."""

    decoder: Any
    end: int
    rows: list[list[int]]
    completions: list[list[int]]


@pytest.fixture(scope="module")
def known_ending() -> Ending:
    decoder = language_model("llama", initializer_range=0.3)
    decoder.generation_config.eos_token_id = None
    rows = prompts(decoder.config.vocab_size, 2 * PROMPT_LENGTHS)
    free = [generated(decoder, row) for row in rows]

    def spread(token: int) -> tuple[int, int]:
        ends = [tokens.index(token) for tokens in free if token in tokens]
        return min(len(free) - len(ends), len({end // generation.LOOK_EVERY for end in ends})), len(set(ends))

    end = max({token for tokens in free for token in tokens}, key=spread)
    decoder.generation_config.eos_token_id = end
    return Ending(decoder, end, rows, [generated(decoder, row) for row in rows])


@pytest.fixture
def ending(known_ending: Ending) -> Iterator[Ending]:
    yield known_ending
    known_ending.decoder.generation_config.eos_token_id = known_ending.end


@pytest.mark.parametrize("batch_size", [1, 3, 8, 18])
def test_an_end_token_ends_its_own_text_and_changes_no_other(batch_size: int, ending: Ending) -> None:
    decoder, rows, expected = ending.decoder, ending.rows, ending.completions
    ended = [tokens[-1] == ending.end for tokens in expected]
    steps = {len(tokens) for tokens, has_ended in zip(expected, ended, strict=True) if has_ended}
    assert len(steps) >= 3, "sequences leave at different times"
    assert not all(ended)
    found = completions(base(decoder), rows, batch_size)
    assert [completion.text for completion in found] == [
        text(tokens[:-1] if has_ended else tokens) for tokens, has_ended in zip(expected, ended, strict=True)
    ]
    assert [completion.new_tokens for completion in found] == [len(tokens) for tokens in expected]
    assert [completion.truncated for completion in found] == [not has_ended for has_ended in ended]


def test_a_sequence_that_has_ended_leaves_the_batch(ending: Ending) -> None:
    widths: list[int] = []
    hook = ending.decoder.register_forward_pre_hook(
        lambda _, __, given: widths.append(len(given["input_ids"])), with_kwargs=True
    )
    completions(base(ending.decoder), ending.rows, len(ending.rows))
    hook.remove()
    assert widths[0] == len(ending.rows)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < len(ending.rows)


def test_the_tokenizers_end_token_counts_beside_the_checkpoints(ending: Ending) -> None:
    settings, other = ending.decoder.generation_config, ending.completions[0][2]
    assert other != ending.end
    settings.eos_token_id = [other, ending.end]
    expected = [len(generated(ending.decoder, row)) for row in ending.rows]
    settings.eos_token_id = other
    tokenizer = Numbers()
    tokenizer.eos_token_id = ending.end
    found = completions(base(ending.decoder, tokenizer), ending.rows, 8)
    assert [completion.new_tokens for completion in found] == expected
    assert expected != [len(tokens) for tokens in ending.completions]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_stop_string_over_several_tokens_cuts_the_text(batch_size: int, model: Model) -> None:
    decoder = model("llama")
    rows = prompts(decoder.config.vocab_size)
    whole = [text(generated(decoder, row)) for row in rows]
    # From the middle of a token into the next, which another look at the sequence finds; and one further on.
    look = generation.LOOK_EVERY
    stop, later = (" ".join(whole[1].split()[start : start + 2])[1:] for start in (look - 1, look + 3))
    assert whole[1].index(stop) < whole[1].index(later)
    found = completions(base(decoder), rows, batch_size, Decoding(NEW_TOKENS, (later, stop)))
    assert [completion.text for completion in found] == [words.split(stop)[0].split(later)[0] for words in whole]
    assert [completion.truncated for completion in found] == [
        stop not in words and later not in words for words in whole
    ]
    assert found[1].new_tokens == 2 * look


def test_a_text_cut_at_a_stop_equals_one_cut_after_generating_further(stories: Path) -> None:
    decoder = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(stories)
    rows = tokenizer(["Once upon a time", "Lily", "The big dog was sad because"])["input_ids"]
    whole = [completion.text for completion in completions(base(decoder, tokenizer), rows, 3, Decoding(120, ()))]
    assert all("there was" in words or "." in words for words in whole)
    stops = (". ", "\n")
    cut = completions(base(decoder, tokenizer), rows, 3, Decoding(120, stops))
    for completion, words in zip(cut, whole, strict=True):
        first = min(words.find(stop) for stop in stops if stop in words)
        assert completion.text == words[:first] != words
        assert not completion.truncated
        assert completion.new_tokens < 120


def attached(name: str, decoder: Any, **changes: Any) -> Any:
    """A method in a model, its trainable tensors moved away from where they start."""
    method = method_named(name, **changes)
    torch.manual_seed(4)
    method.attach(base(decoder), 10)
    with torch.no_grad():
        for parameter in method.backbone.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prompt", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_soft_prompts_complete_alike_in_every_batch(prompt: str, name: str, model: Model) -> None:
    decoder = model(name)
    rows = prompts(decoder.config.vocab_size)
    plain = [completion.text for completion in completions(base(decoder), rows, 8)]
    method = attached(prompt, decoder, length=5)
    single, batched = ([completion.text for completion in completions(method.backbone, rows, size)] for size in (1, 8))
    assert single == batched
    assert sum(one != other for one, other in zip(single, plain, strict=True)) > len(rows) // 2, "the prompt is read"


@pytest.mark.parametrize("prompt", ["prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_soft_prompts_completions_follow_from_whole_forward_passes(prompt: str, name: str, model: Model) -> None:
    decoder = model(name)
    rows = prompts(decoder.config.vocab_size, (6, 2))
    method = attached(prompt, decoder, length=5)
    adapted = method.backbone.model.eval()
    for row, completion in zip(rows, completions(method.backbone, rows, 2), strict=True):
        tokens = list(row)
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                tokens.append(int(adapted(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        assert completion.text == text(tokens[len(row) :])


@pytest.mark.parametrize("name", ["llama", "stories"])
def test_trained_and_merged_lora_complete_alike(name: str, model: Model) -> None:
    decoder = model(name)
    rows = prompts(decoder.config.vocab_size)
    plain = [completion.text for completion in completions(base(decoder), rows, 4)]
    method = attached("lora", decoder, rank=2)
    trained = [completion.text for completion in completions(method.backbone, rows, 4)]
    assert trained == [text(generated(method.backbone.model, row)) for row in rows]
    method.finish()
    assert [completion.text for completion in completions(method.backbone, rows, 4)] == trained != plain


class Runner:
    """What an evaluation needs of an Accelerator."""

    device = "cpu"

    def autocast(self) -> Any:
        return contextlib.nullcontext()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("count", [9, 70])
def test_the_next_tokens_logits_are_those_of_the_first_64_prompts(name: str, count: int, model: Model) -> None:
    decoder = model(name)
    rows = prompts(decoder.config.vocab_size, [1 + 5 * i % 17 for i in range(count)])
    found = evaluation.answers_of(base(decoder), {"test": examples(rows)}, 4, Runner())["test"]  # type: ignore[arg-type]
    assert found.shape == (min(64, count), decoder.config.vocab_size)
    assert found.dtype == np.float32
    with torch.no_grad():
        alone = torch.stack([decoder(torch.tensor([row])).logits[0, -1] for row in rows[:64]])
    np.testing.assert_allclose(found, alone, atol=1e-5)
