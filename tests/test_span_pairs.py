"""Two marked spans: where WiC's and WSC's words lie among the tokens, and the head that reads them."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from bench.backbone import pretrained
from bench.backbone.span_pair import SpanPairHead, SpanPairModel
from bench.errors import DataError
from bench.settings import DataSettings, ModelSettings
from tasks.locating import resolve
from tasks.sources import Source
from tasks.superglue import word_span
from tests.conftest import task_named
from tests.superglue_files import OFFICIAL, in_official_schema, squeezed


@pytest.fixture
def official(tmp_path: Path) -> Callable[..., Source]:
    """A source in a config's official schema."""
    return functools.partial(in_official_schema, tmp_path)


def marked(examples: Any, index: int, which: int, tokenizer: Any) -> str:
    """The text of a marked span's tokens."""
    first, last = examples.spans[index, which]
    return tokenizer.decode(examples.tokens.row(index)[first : last + 1])


@pytest.mark.parametrize("kind", ["classification", "regression", "span_pair"])
def test_a_head_depends_on_the_seed_and_not_on_what_was_loaded_before(kind: str, tiny_bert: Path) -> None:
    settings = ModelSettings(name="tiny", path=str(tiny_bert))
    pretrained._load.cache_clear()

    def head() -> torch.Tensor:
        torch.manual_seed(0)
        found = pretrained.fresh(settings, kind, 2)
        tensors = [tensor for name, tensor in found.model.named_parameters() if found.anatomy.is_head(name)]
        return torch.cat([tensor.detach().flatten() for tensor in tensors])

    first = head()
    assert torch.equal(head(), first)


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
        source = official("wic", sentence2='A ("run")', start2=4, end2=7)
        examples = task_named("superglue/wic").encode(source, "validation", any_tokenizer, 64, None)
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

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"classifier_dropout": None, "hidden_dropout_prob": 0.3}, 0.3),
            ({"classifier_dropout": 0.0, "hidden_dropout_prob": 0.3}, 0.0),
            ({"classifier_dropout": 0.7}, 0.7),
        ],
    )
    def test_its_dropout_is_that_of_the_familys_own_head(self, settings: dict[str, Any], expected: float) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {"vocab_size": 5, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
        backbone = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=4, **settings))
        assert SpanPairModel(backbone, "bert").span_classifier.dropout.p == expected

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
