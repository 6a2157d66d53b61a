"""Prefixes for images: trained keys and values ahead of those of every attention layer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.backbone.dropout import use_fast_dropout
from bench.backbone.pretrained import Backbone
from bench.errors import SettingsError
from bench.measure import parameters
from methods.base import Method, trainable
from methods.parts.attention_prefix import AttentionPrefix, attention_with_prefix
from tests.families import IMAGE, classifier, inputs
from tests.families import backbone as plain_backbone
from tests.methods.conftest import method_named

LENGTH = 5
HEADS, WIDTH, TOKENS = 2, 32, 6
# Swin's last block is twice as wide as its first two.
WIDTHS = {"vit": [32, 32], "dinov2": [32, 32], "swin": [32, 32, 64]}
every_family = pytest.mark.parametrize("family", IMAGE)


def backbone(family: str, **changes: Any) -> Backbone:
    base = plain_backbone(classifier(family, **changes))
    base.kind = "image_classification"
    return base


def attached(family: str, **changes: Any) -> Method:
    method = method_named("prefix_tuning", length=LENGTH)
    base = backbone(family, **changes)
    method.check(base.anatomy)
    torch.manual_seed(1)
    method.attach(base, 10)
    return method


def logits(model: Any, family: str) -> Tensor:
    with torch.no_grad():
        return model.eval()(**inputs(family)).logits


class Layer(torch.nn.Module):
    """As much of an attention layer as its attention function looks at."""

    is_causal = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.prefix = AttentionPrefix(LENGTH, WIDTH, torch.device("cpu"))


def states(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key and value of three sequences."""
    generator = torch.Generator().manual_seed(4)
    shape = (3, HEADS, TOKENS, WIDTH // HEADS)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]


def masks() -> list[Tensor | None]:
    """None; an additive bias per head; true where a key counts."""
    allowed = torch.ones(3, 1, TOKENS, TOKENS, dtype=torch.bool)
    allowed[1, :, :, 4:] = False
    return [None, torch.randn(1, HEADS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(5)), allowed]


def expected(layer: Layer, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax([Q P_K^T, Q K^T + mask] / sqrt(width)) [P_V; V], sequence by sequence and head by head."""
    width = WIDTH // HEADS
    result = torch.empty(3, TOKENS, HEADS, width)
    for sequence in range(3):
        for head in range(HEADS):
            columns = slice(head * width, (head + 1) * width)
            own = query[sequence, head] @ key[sequence, head].T / width**0.5
            if mask is not None:
                allowed = mask.expand(3, HEADS, -1, -1)[sequence, head]
                own = own.masked_fill(~allowed, -torch.inf) if allowed.dtype == torch.bool else own + allowed
            ahead = query[sequence, head] @ layer.prefix.keys[:, columns].T / width**0.5
            weights = torch.cat((ahead, own), 1).softmax(1)
            values = torch.cat((layer.prefix.values[:, columns], value[sequence, head]))
            result[sequence, :, head] = weights @ values
    return result


@pytest.mark.parametrize("mask", masks(), ids=["none", "additive", "boolean"])
def test_every_query_attends_to_the_prefix_and_to_what_the_mask_allows(mask: Tensor | None) -> None:
    layer, (query, key, value) = Layer(), states()
    found, _ = attention_with_prefix(layer, query, key, value, mask, dropout=0.0)
    torch.testing.assert_close(found, expected(layer, query, key, value, mask))


def test_dropout_falls_on_the_prefix_as_well_and_leaves_the_mean() -> None:
    layer, (query, key, value) = Layer(), states()
    silent = torch.zeros_like(value)
    plain, _ = attention_with_prefix(layer, query, key, silent, None, dropout=0.0)
    torch.manual_seed(0)
    draws = [attention_with_prefix(layer, query, key, silent, None, dropout=0.2)[0] for _ in range(1000)]
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(torch.stack(draws).mean(0), plain, rtol=0, atol=0.1 * float(plain.detach().abs().max()))


def test_a_prefix_takes_the_type_of_the_keys() -> None:
    layer, (query, key, value) = Layer(), states(torch.bfloat16)
    found, _ = attention_with_prefix(layer, query, key, value, None, dropout=0.0)
    assert found.dtype == torch.bfloat16
    assert layer.prefix.keys.dtype == torch.float32


@every_family
def test_every_layer_has_length_keys_and_values_of_its_own_width(family: str) -> None:
    method = attached(family)
    counts = parameters.count(method.backbone.model, method.backbone.anatomy)
    assert counts.trainable == sum(2 * LENGTH * width for width in WIDTHS[family])


@every_family
def test_every_key_and_value_has_a_part_in_the_loss(family: str) -> None:
    method = attached(family)
    loss, _ = method.compute_loss(method.backbone.model.train(), {**inputs(family), "labels": torch.tensor([0, 1] * 2)})
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for _, parameter in trainable(method.backbone.model))


@every_family
def test_dropout_can_be_made_cheap_before_or_after_and_changes_no_evaluation(family: str) -> None:
    method = attached(family, attention_probs_dropout_prob=0.3)
    model = method.backbone.model
    expected = logits(model, family)
    use_fast_dropout(model)
    assert torch.equal(logits(model, family), expected)
    model.train()
    assert not torch.equal(model(**inputs(family)).logits, model(**inputs(family)).logits)

    made_before = backbone(family, attention_probs_dropout_prob=0.3)
    use_fast_dropout(made_before.model)
    other = method_named("prefix_tuning", length=LENGTH)
    torch.manual_seed(1)
    other.attach(made_before, 10)
    assert torch.equal(logits(made_before.model, family), expected)


@every_family
def test_a_copy_keeps_prefixes_of_its_own(family: str) -> None:
    model = attached(family).backbone.model
    before = logits(model, family)
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied, family), before)
    for name, parameter in copied.named_parameters():
        if "prefix" in name:
            torch.nn.init.normal_(parameter, std=20.0)
    assert not torch.equal(logits(copied, family), before)
    assert torch.equal(logits(model, family), before)


@every_family
def test_a_saved_prefix_is_read_again(family: str, tmp_path: Path) -> None:
    method, again = attached(family), attached(family)
    for _, parameter in trainable(method.backbone.model):
        torch.nn.init.normal_(parameter)
    method.save(tmp_path)
    again.load(tmp_path)
    assert torch.equal(logits(again.backbone.model, family), logits(method.backbone.model, family))


def test_an_encoder_of_the_prefix_is_refused_for_images() -> None:
    changed = {"prefix_projection": True, "encoder_hidden_size": 8, "init_weights": None}
    with pytest.raises(SettingsError, match=r"method\.options\.prefix_projection must stay off for images"):
        method_named("prefix_tuning", options=changed).check(backbone("vit").anatomy)
