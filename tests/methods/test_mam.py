"""MAM: prefixes of text models, their generator, the parallel adapter beside them."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad

from bench.backbone.anatomy import FAMILIES, Anatomy
from bench.errors import SettingsError
from bench.measure import parameters
from methods.base import ADAPTER_FILE, Method, trainable
from methods.mam import MixAndMatch
from methods.parts.attention_prefix import (
    AttentionPrefix,
    GeneratedPrefix,
    Prefix,
    PrefixGenerator,
    attention_with_prefix,
)
from methods.parts.bottleneck import Bottleneck
from tests.families import backbone, classifier, inputs, language_model
from tests.methods.conftest import attached, batch, count_on_roberta_base, method_named, padded_batch

LENGTH, MIDDLE = 5, 12
SMALL = {"length": LENGTH, "middle": MIDDLE, "reduction": 4}
SERVED = [family for family in FAMILIES if family not in ("t5", "deberta-v2")]
DECODERS = ("gpt2", "llama", "qwen2", "gemma")
every_family = pytest.mark.parametrize("family", SERVED)
every_decoder = pytest.mark.parametrize("family", DECODERS)


def on(model: Any, **changes: Any) -> MixAndMatch:
    """The method on a tiny model."""
    method = method_named("mam", **SMALL | changes)
    assert isinstance(method, MixAndMatch)
    base = backbone(model)
    method.check(base.anatomy)
    torch.manual_seed(1)
    method.attach(base, 10)
    return method


def perturbed(method: MixAndMatch) -> MixAndMatch:
    """All adapters far from their start."""
    torch.manual_seed(2)
    for name, parameter in method.backbone.model.named_parameters():
        if "adapter_" in name:
            nn.init.normal_(parameter, std=0.3)
    return method


def parts(method: Method, kind: type[nn.Module]) -> list[Any]:
    """The modules of one kind."""
    return [module for module in method.backbone.model.modules() if isinstance(module, kind)]


def logits(model: Any, family: str) -> Tensor:
    with torch.no_grad():
        return model.eval()(**inputs(family)).logits


class Layer(nn.Module):
    """As much of a decoder's attention layer as its attention function looks at."""

    is_causal = True

    def __init__(self, heads: int, key_heads: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.num_key_value_groups = heads // key_heads
        self.prefix = AttentionPrefix(LENGTH, key_heads * width, torch.device("cpu"))


class TestAttention:
    def test_a_prefix_is_a_gated_sum_of_the_heads_own_output_and_the_prefixs(self) -> None:
        layer = Layer(1, 1, 8)
        layer.is_causal = False
        query, key, value = torch.randn(3, 1, 6, 8), torch.randn(3, 1, 6, 8), torch.randn(3, 1, 6, 8)
        found, _ = attention_with_prefix(layer, query, key, value, None)
        ahead, own = query @ layer.prefix.keys.T / 8**0.5, query @ key.mT / 8**0.5
        mass, rest = ahead.exp().sum(-1, keepdim=True), own.exp().sum(-1, keepdim=True)
        gate = mass / (mass + rest)
        expected = (1 - gate) * (own.softmax(-1) @ value) + gate * (ahead.softmax(-1) @ layer.prefix.values)
        torch.testing.assert_close(found, expected.transpose(1, 2))

    @pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2)], ids=["all heads", "grouped heads"])
    def test_a_decoders_position_sees_the_prefix_and_what_came_before_it(self, heads: int, key_heads: int) -> None:
        layer = Layer(heads, key_heads, 8)
        query, key, value = (
            torch.randn(3, heads, 6, 8),
            torch.randn(3, key_heads, 6, 8),
            torch.randn(3, key_heads, 6, 8),
        )
        found, _ = attention_with_prefix(layer, query, key, value, None)
        for last in range(6):
            seen = slice(0, last + 1)
            alone, _ = attention_with_prefix(
                layer, query[:, :, last : last + 1], key[:, :, seen], value[:, :, seen], None
            )
            torch.testing.assert_close(found[:, last : last + 1], alone)

    def test_a_call_may_say_itself_that_it_is_not_causal(self) -> None:
        layer = Layer(2, 2, 8)
        query, key, value = torch.randn(3, 2, 6, 8), torch.randn(3, 2, 6, 8), torch.randn(3, 2, 6, 8)
        everything = torch.ones(6, 6, dtype=torch.bool)
        expected, _ = attention_with_prefix(layer, query, key, value, everything)
        found, _ = attention_with_prefix(layer, query, key, value, None, is_causal=False)
        torch.testing.assert_close(found, expected)


class TestTextModels:
    @every_decoder
    def test_the_later_tokens_of_a_text_do_not_change_the_earlier_ones(self, family: str) -> None:
        model = perturbed(on(language_model(family))).backbone.model.eval()
        tokens = inputs(family)["input_ids"]
        with torch.no_grad():
            whole, start = model(input_ids=tokens).logits, model(input_ids=tokens[:, :4]).logits
        torch.testing.assert_close(whole[:, :4], start)

    @every_decoder
    def test_steps_with_a_cache_give_what_the_whole_text_gives(self, family: str) -> None:
        model = perturbed(on(language_model(family))).backbone.model.eval()
        tokens = inputs(family)["input_ids"]
        with torch.no_grad():
            whole = model(input_ids=tokens).logits
            step = model(input_ids=tokens[:, :3], use_cache=True)
            found = [step.logits]
            for position in range(3, tokens.shape[1]):
                following = tokens[:, position : position + 1]
                step = model(input_ids=following, past_key_values=step.past_key_values, use_cache=True)
                found.append(step.logits)
        assert step.past_key_values.get_seq_length() == tokens.shape[1]
        torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-5)

    @every_decoder
    def test_padding_ahead_of_a_text_changes_nothing(self, family: str) -> None:
        model = perturbed(on(language_model(family))).backbone.model.eval()
        tokens = inputs(family)["input_ids"]
        mask = pad(torch.ones_like(tokens), (3, 0))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            alone = model(input_ids=tokens).logits
            padded = model(input_ids=pad(tokens, (3, 0)), attention_mask=mask, position_ids=positions).logits
        torch.testing.assert_close(padded[:, 3:], alone, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
    def test_padding_behind_a_text_changes_nothing_in_an_encoder(self, family: str) -> None:
        model = perturbed(on(classifier(family))).backbone.model.eval()
        tokens = inputs(family)["input_ids"]
        mask = pad(torch.ones_like(tokens), (0, 3))
        padding = model.config.pad_token_id
        with torch.no_grad():
            alone = model(input_ids=tokens).logits
            padded = model(input_ids=pad(tokens, (0, 3), value=padding), attention_mask=mask).logits
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)

    def test_positions_count_from_the_first_real_token(self) -> None:
        model, seen = on(language_model("gpt2")).backbone.model, []
        model.transformer.wpe.register_forward_hook(lambda _, given, __: seen.append(given[0].flatten().tolist()))
        logits(model, "gpt2")
        assert seen == [list(range(7))]


class TestStart:
    @every_family
    def test_the_adapters_add_nothing_and_the_prefixes_do(self, family: str) -> None:
        model = on(classifier(family), scale=2.0).backbone.model
        assert torch.equal(logits(model, family), logits(on(classifier(family), scale=50.0).backbone.model, family))
        assert not torch.allclose(logits(model, family), logits(classifier(family), family), rtol=1e-3, atol=0)

    def test_the_embedding_is_normal_and_the_layers_are_those_of_torch(self) -> None:
        torch.manual_seed(0)
        generator = PrefixGenerator(200, 64, 100, [64, 64])
        assert generator.embedding.std().item() == pytest.approx(1.0, rel=0.05)
        for layer, fan in ((generator.inner, 64), *((outer, 100) for outer in generator.outer)):
            for tensor in (layer.weight, layer.bias):
                assert 0.9 * fan**-0.5 < tensor.abs().max() <= fan**-0.5

    def test_prefixes_without_a_generator_start_small(self) -> None:
        prefixes = parts(on(classifier("bert"), projection=False, length=400), AttentionPrefix)
        assert len(prefixes) == 2
        for prefix in prefixes:
            assert prefix.keys.std().item() == pytest.approx(0.02, rel=0.05)
            assert prefix.values.std().item() == pytest.approx(0.02, rel=0.05)


class TestGenerator:
    def test_each_layer_has_its_keys_then_its_values_of_one_product(self) -> None:
        torch.manual_seed(0)
        generator = PrefixGenerator(LENGTH, 6, MIDDLE, [4, 8])
        hidden = torch.tanh(generator.embedding @ generator.inner.weight.T + generator.inner.bias)
        weight, bias = (torch.cat([getattr(part, name) for part in generator.outer]) for name in ("weight", "bias"))
        everything = hidden @ weight.T + bias
        found = [tensor for index in range(2) for tensor in generator.of_layer(index)]
        for tensor, expected in zip(found, everything.split([4, 4, 8, 8], dim=1), strict=True):
            torch.testing.assert_close(tensor, expected)

    @every_family
    def test_there_is_one_and_it_gets_gradients_at_once(self, family: str) -> None:
        method = on(classifier(family))
        (generator,) = parts(method, PrefixGenerator)
        batch = {**inputs(family), "labels": torch.tensor([0, 1, 0, 1])}
        method.compute_loss(method.backbone.model.train(), batch)[0].backward()
        assert all(tensor.grad is not None and tensor.grad.any() for tensor in generator.parameters())

    def test_the_adapters_second_layer_learns_first(self) -> None:
        method = on(classifier("bert"))
        batch = {**inputs("bert"), "labels": torch.tensor([0, 1, 0, 1])}
        adapters = parts(method, Bottleneck)

        def backward() -> None:
            method.backbone.model.zero_grad()
            method.compute_loss(method.backbone.model.eval(), batch)[0].backward()

        backward()
        assert all(adapter.up.weight.grad.any() and not adapter.down.weight.grad.any() for adapter in adapters)
        torch.optim.SGD(method.backbone.model.parameters(), lr=0.1).step()
        backward()
        assert all(adapter.down.weight.grad.any() for adapter in adapters)

    @every_family
    def test_gradient_checkpointing_gives_the_same_gradients(self, family: str) -> None:
        def gradients(checkpointing: bool) -> dict[str, Tensor | None]:
            model = perturbed(on(classifier(family), dropout=0.0)).backbone.model.train()
            if checkpointing:
                model.gradient_checkpointing_enable()
            model(**inputs(family), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
            return {name: parameter.grad for name, parameter in trainable(model)}

        torch.testing.assert_close(gradients(True), gradients(False))

    def test_a_copy_after_a_training_step_has_prefixes_of_its_own(self) -> None:
        method = on(classifier("bert"))
        method.backbone.model.train()(**inputs("bert"))
        twin = copy.deepcopy(method.backbone.model)
        before = logits(twin, "bert")
        for _, parameter in trainable(method.backbone.model):
            nn.init.normal_(parameter)
        assert torch.equal(logits(twin, "bert"), before)
        assert not torch.equal(logits(method.backbone.model, "bert"), before)


class TestInferenceForm:
    @every_family
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_its_prefixes_are_what_the_generator_makes(self, family: str, precision: str) -> None:
        method = perturbed(on(classifier(family)))
        half = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
        with half:
            expected = logits(method.backbone.model, family)
            method.finish()
            assert torch.equal(logits(method.backbone.model, family), expected)
        assert not parts(method, PrefixGenerator)
        assert {type(prefix) for prefix in parts(method, Prefix)} == {AttentionPrefix}

    def test_a_saved_adapter_has_no_generator(self, tmp_path: Path) -> None:
        method = perturbed(on(classifier("bert")))
        method.save(tmp_path)
        assert parts(method, GeneratedPrefix), "saving leaves the trained form as it is"
        stored = {
            name: tensor for name, tensor in load_file(tmp_path / ADAPTER_FILE).items() if "classifier" not in name
        }
        prefixes, adapters = 2 * 2 * LENGTH * 32, 2 * (2 * 32 * 8 + 8 + 32)
        assert sum(tensor.numel() for tensor in stored.values()) == prefixes + adapters
        again = on(classifier("bert"))
        again.load(tmp_path)
        assert torch.equal(logits(again.backbone.model, "bert"), logits(method.backbone.model, "bert"))


class TestCounts:
    def test_roberta_base_trains_the_generator_and_keeps_half_a_percent(self) -> None:
        prefixes, adapters = 2 * 12 * 16 * 768, 12 * (2 * 768 * 16 + 16 + 768)
        assert count_on_roberta_base("mam") == 15_391_520 + adapters
        assert count_on_roberta_base("mam", projection=False) == prefixes + adapters == 599_232

    def test_the_inference_form_has_as_many_as_prefixes_without_a_generator(self) -> None:
        method, plain = on(classifier("bert")), on(classifier("bert"), projection=False)
        method.finish()
        found, expected = (
            parameters.count(one.backbone.model, one.backbone.anatomy).trainable for one in (method, plain)
        )
        assert found == expected

    def test_prefixes_are_as_wide_as_the_keys(self) -> None:
        (first, _) = parts(on(classifier("llama"), projection=False), AttentionPrefix)
        assert first.keys.shape == (LENGTH, 16), "one head of 16 for the keys of two"
        (first, _) = parts(on(classifier("gpt2"), projection=False), AttentionPrefix)
        assert first.keys.shape == (LENGTH, 32), "a third of the fused projection"


class TestAdapter:
    def test_the_scale_multiplies_the_bias_as_well(self) -> None:
        (adapter, _) = parts(perturbed(on(classifier("bert"), scale=3.0)), Bottleneck)
        hidden = torch.randn(4, 32)
        inner = torch.relu(hidden @ adapter.down.weight.T + adapter.down.bias)
        expected = 3 * (inner @ adapter.up.weight.T + adapter.up.bias)
        torch.testing.assert_close(adapter.eval()(hidden), expected)

    def test_dropout_falls_between_its_layers(self) -> None:
        (adapter, _) = parts(perturbed(on(classifier("bert"), dropout=0.5)), Bottleneck)
        nn.init.zeros_(adapter.up.weight)
        hidden = torch.randn(4, 32)
        assert torch.equal(adapter.train()(hidden), adapter.eval()(hidden)), "the bias is never dropped"
        nn.init.ones_(adapter.up.weight)
        assert not torch.equal(adapter.train()(hidden), adapter.eval()(hidden))


def test_padding_in_a_batch_leaves_the_other_examples_as_they_are() -> None:
    method = attached("mam")
    model = method.backbone.model.eval()
    padded = padded_batch()
    short = {"input_ids": padded["input_ids"][3:, :5]}
    with torch.no_grad():
        together = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits
        torch.testing.assert_close(together[3:], model(**short).logits, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            together[:3], model(input_ids=batch(5)["input_ids"][:3]).logits, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("family", "settings", "sentence"),
    [
        ("t5", {}, r"a prefix needs an encoder or a decoder; this model is both in one"),
        ("deberta-v2", {}, r"a prefix needs attention in the form of torch's own; DebertaV2Model has another"),
        ("bert", {"length": 0}, r"method\.length=0 must be a whole number of at least 1"),
        ("bert", {"middle": 2.5}, r"method\.middle=2\.5 must be a whole number of at least 1"),
        ("bert", {"reduction": 33}, r"method\.reduction=33 is above the model's width \(32\)"),
    ],
)
def test_what_cannot_work_is_refused(family: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        method_named("mam", **SMALL | settings).check(Anatomy(classifier(family), family))
