"""Bottleneck adapters: positions, starting values, counts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from bench.anatomy import Anatomy
from bench.backbone import Backbone
from bench.errors import SettingsError
from methods.adapter import VARIANTS, BottleneckAdapter
from methods.base import trainable

PARALLEL = ("parallel", "scaled_parallel")
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_family = pytest.mark.parametrize("family", ["bert", "gpt2"])


def tiny_model(family: str) -> Any:
    """Two layers of width 32 without dropout, always the same weights; layer norms are not the identity."""
    torch.manual_seed(0)
    if family == "bert":
        config = BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model: Any = BertForSequenceClassification(config)
    else:
        dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model = GPT2ForSequenceClassification(
            GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, pad_token_id=0, **dropouts)
        )
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name or "ln_" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return model.eval()


def adapter(variant: str = "pfeiffer", **settings: Any) -> BottleneckAdapter:
    defaults = {"reduction": 4, "nonlinearity": "tanh", "scale": 1.0, "dropout": 0.0, "train_layernorm": False}
    return BottleneckAdapter(learning_rate=1e-3, variant=variant, **(defaults | settings))


def attached(variant: str, family: str = "bert", model: Any = None, **settings: Any) -> BottleneckAdapter:
    method = adapter(variant, **settings)
    model = tiny_model(family) if model is None else model
    backbone = Backbone(model=model, tokenizer=None, anatomy=Anatomy(model, model.config.model_type), source="test")
    method.check(backbone.anatomy)
    torch.manual_seed(1)
    method.attach(backbone, total_steps=10)
    return method


def perturbed(method: BottleneckAdapter) -> BottleneckAdapter:
    """All adapter tensors far from their start."""
    torch.manual_seed(2)
    for name, parameter in method.backbone.model.named_parameters():
        if "adapter_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return method


def inputs() -> Tensor:
    return torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(3))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=inputs()).logits


def bottleneck(method: BottleneckAdapter, position: str, hidden: Tensor) -> Tensor:
    """f of block 0, from its weights."""
    f = method.backbone.anatomy.blocks[0][1].get_submodule(position)
    inner = torch.tanh(hidden @ f.down.weight.T + f.down.bias)
    return method.scale * (inner @ f.up.weight.T + f.up.bias)


def seen(model: Any, *names: str) -> dict[str, tuple[tuple[Tensor, ...], Tensor]]:
    """Positional arguments and output of the named modules in one forward pass."""
    calls: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, arguments, output, name=name: calls.update({name: (arguments, output)}))
    logits(model)
    return calls


@pytest.mark.parametrize(
    ("variant", "reduction", "expected"),
    [
        ("pfeiffer", 16, 894_528),
        ("houlsby", 16, 1_789_056),
        ("parallel", 2, 7_091_712),
        ("scaled_parallel", 2, 7_091_724),
    ],
)
def test_roberta_base_has_the_published_number_of_adapter_parameters(
    variant: str, reduction: int, expected: int
) -> None:
    with torch.device("meta"):
        model = RobertaForSequenceClassification(RobertaConfig())
    method = attached(variant, model=model, reduction=reduction)
    is_head = method.backbone.anatomy.is_head
    assert sum(tensor.numel() for name, tensor in trainable(model) if not is_head(name)) == expected


@every_family
@pytest.mark.parametrize("variant", PARALLEL)
def test_parallel_adapters_start_exactly_at_the_base_model(variant: str, family: str) -> None:
    method = attached(variant, family, scale=4.0)
    assert method.identity_at_start
    assert torch.equal(logits(method.backbone.model), logits(tiny_model(family)))


@every_family
@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer"])
def test_sequential_adapters_start_close_to_the_base_model_but_not_at_it(variant: str, family: str) -> None:
    method = attached(variant, family)
    base = logits(tiny_model(family))
    distance = (logits(method.backbone.model) - base).norm() / base.norm()
    assert not method.identity_at_start
    assert 0 < distance < 0.05


@every_family
@every_variant
def test_without_its_up_projection_an_adapter_leaves_the_base_model_as_it_is(variant: str, family: str) -> None:
    method = perturbed(attached(variant, family))
    assert not torch.equal(logits(method.backbone.model), logits(tiny_model(family)))
    for name, parameter in method.backbone.model.named_parameters():
        if "adapter_" in name and ".up." in name:
            torch.nn.init.zeros_(parameter)
    assert torch.equal(logits(method.backbone.model), logits(tiny_model(family)))


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel"])
def test_a_post_norm_block_computes_the_variants_equation(variant: str) -> None:
    method = perturbed(attached(variant, scale=0.7))
    name = "bert.encoder.layer.0.output"
    (inner, x), out = seen(method.backbone.model, name)[name]
    layer = method.backbone.model.get_submodule(name)
    h = inner @ layer.dense.weight.T + layer.dense.bias

    def norm(hidden: Tensor) -> Tensor:
        return functional.layer_norm(hidden, (32,), layer.LayerNorm.weight, layer.LayerNorm.bias, layer.LayerNorm.eps)

    reads = {"houlsby": h, "pfeiffer": norm(h + x), "parallel": x}[variant]
    torch.testing.assert_close(out, norm(h + x + bottleneck(method, "adapter_ffn", reads)))


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel"])
def test_a_pre_norm_block_computes_the_variants_equation(variant: str) -> None:
    method = perturbed(attached(variant, "gpt2", scale=0.7))
    names = [f"transformer.h.0{suffix}" for suffix in ("", ".ln_2", ".mlp.c_proj")]
    calls = seen(method.backbone.model, *names)
    (x,), normalised = calls["transformer.h.0.ln_2"]
    h = calls["transformer.h.0.mlp.c_proj"][1]
    reads = {"houlsby": h, "pfeiffer": h + x, "parallel": normalised}[variant]
    expected = x + h + bottleneck(method, "adapter_ffn", reads)
    torch.testing.assert_close(calls["transformer.h.0"][1], expected)


def test_houlsby_adapts_the_attention_output_before_it_is_added() -> None:
    method = perturbed(attached("houlsby"))
    name = "bert.encoder.layer.0.attention.output"
    (inner, x), out = seen(method.backbone.model, name)[name]
    layer = method.backbone.model.get_submodule(name)
    h = inner @ layer.dense.weight.T + layer.dense.bias
    summed = h + x + bottleneck(method, "adapter_attention", h)
    norm = layer.LayerNorm
    torch.testing.assert_close(out, functional.layer_norm(summed, (32,), norm.weight, norm.bias, norm.eps))


def test_sequential_weights_start_with_standard_deviation_002_and_biases_at_zero() -> None:
    model = attached("houlsby", reduction=1).backbone.model
    tensors = {name: parameter for name, parameter in model.named_parameters() if "adapter_" in name}
    for name, tensor in tensors.items():
        assert tensor.std().item() == pytest.approx(0.02, rel=0.1) if tensor.ndim == 2 else not tensor.any(), name


def test_parallel_down_projections_start_kaiming_uniform_and_the_rest_at_zero() -> None:
    model = attached("parallel", reduction=1).backbone.model
    for name, tensor in model.named_parameters():
        if name.endswith("down.weight"):
            assert 0.9 * 32**-0.5 < tensor.abs().max() <= 32**-0.5
        elif "adapter_" in name:
            assert not tensor.any()


@every_variant
def test_only_adapters_and_head_train(variant: str) -> None:
    names = [name for name, _ in trainable(attached(variant).backbone.model)]
    assert all("adapter_" in name or name.startswith("classifier.") for name in names)
    blocks_with_adapters = {name.split(".")[3] for name in names if "adapter_" in name}
    assert blocks_with_adapters == {"0", "1"}


def test_layer_norms_of_the_blocks_train_on_demand() -> None:
    names = {name for name, _ in trainable(attached("houlsby", train_layernorm=True).backbone.model)}
    norms = {name for name in names if "LayerNorm" in name}
    assert len(norms) == 8
    assert all(".encoder.layer." in name for name in norms)


def test_a_learned_scale_starts_where_it_is_set_and_gets_a_gradient() -> None:
    method = attached("scaled_parallel", scale=1)
    model = method.backbone.model
    scales = [parameter for name, parameter in trainable(model) if name.endswith("adapter_ffn.scale")]
    assert [scale.tolist() for scale in scales] == [[1.0], [1.0]]
    perturbed(method)
    model(input_ids=inputs(), labels=torch.tensor([0, 1, 0])).loss.backward()
    assert all(scale.grad is not None and scale.grad.any() for scale in scales)


@every_family
@every_variant
def test_a_deep_copy_has_adapters_of_its_own(variant: str, family: str) -> None:
    method = attached(variant, family)
    before = logits(method.backbone.model)
    twin = copy.deepcopy(method.backbone.model)
    assert torch.equal(logits(twin), before)
    perturbed(method)
    assert torch.equal(logits(twin), before)
    assert not torch.equal(logits(method.backbone.model), before)


@every_variant
def test_gradient_checkpointing_gives_the_same_gradients(variant: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = perturbed(attached(variant)).backbone.model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(input_ids=inputs(), labels=torch.tensor([0, 1, 0])).loss.backward()
        return {name: parameter.grad for name, parameter in trainable(model)}

    torch.testing.assert_close(gradients(True), gradients(False))


@every_family
@every_variant
def test_adapters_stay_float32_on_a_half_precision_model(variant: str, family: str) -> None:
    method = attached(variant, model=tiny_model(family).to(torch.bfloat16))
    model = method.backbone.model
    assert {parameter.dtype for name, parameter in trainable(model) if "adapter_" in name} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def test_saved_adapters_can_be_swapped(tmp_path: Path) -> None:
    method = attached("houlsby")
    method.save(tmp_path / "first")
    first = logits(method.backbone.model)
    perturbed(method).save(tmp_path / "second")
    second = logits(method.backbone.model)
    method.load(tmp_path / "first")
    assert torch.equal(logits(method.backbone.model), first)
    method.load(tmp_path / "second")
    assert torch.equal(logits(method.backbone.model), second)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"variant": "pfeifer"}, "method.variant=pfeifer is unknown. Did you mean 'pfeiffer'?"),
        ({"nonlinearity": "reul"}, "method.nonlinearity=reul is unknown. Did you mean 'relu'?"),
        ({"reduction": 33}, r"method.reduction=33 is above the model's width \(32\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        adapter(**settings).check(Anatomy(tiny_model("bert"), "bert"))
