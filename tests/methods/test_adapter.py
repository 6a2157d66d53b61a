"""Bottleneck adapters: positions, starting values, counts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from bench.backbone.anatomy import FAMILIES, Anatomy
from bench.errors import SettingsError
from methods.adapter import VARIANTS, BottleneckAdapter
from methods.base import trainable
from tests.families import backbone, classifier, inputs, language_model

PARALLEL = ("parallel", "scaled_parallel")
POST_NORM = [name for name, family in FAMILIES.items() if not family.pre_norm]
PRE_NORM = [name for name, family in FAMILIES.items() if family.pre_norm]
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_equation = pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel"])
every_family = pytest.mark.parametrize("family", FAMILIES)


def tiny_model(family: str) -> Any:
    """The family's tiny classifier, always the same; its norms and layer scales are not the identity."""
    model = classifier(family)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() or "ln_" in name or "lambda1" in name:
            nn.init.normal_(parameter, mean=1.0, std=0.2)
    return model


def adapter(variant: str = "pfeiffer", **settings: Any) -> BottleneckAdapter:
    defaults = {"reduction": 4, "nonlinearity": "tanh", "scale": 1.0, "dropout": 0.0, "train_layernorm": False}
    return BottleneckAdapter(learning_rate=1e-3, variant=variant, **(defaults | settings))


def attached(variant: str, family: str = "bert", model: Any = None, **settings: Any) -> BottleneckAdapter:
    method = adapter(variant, **settings)
    model = tiny_model(family) if model is None else model
    base = backbone(model)
    method.check(base.anatomy)
    torch.manual_seed(1)
    method.attach(base, total_steps=10)
    return method


def perturbed(method: BottleneckAdapter) -> BottleneckAdapter:
    """All adapter tensors far from their start."""
    torch.manual_seed(2)
    for name, parameter in method.backbone.model.named_parameters():
        if "adapter_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return method


def logits(model: Any) -> Tensor:
    batch = inputs(model.config.model_type)
    with torch.no_grad():
        return model(**{name: x.to(model.dtype) if x.is_floating_point() else x for name, x in batch.items()}).logits


def bottleneck(method: BottleneckAdapter, position: str, hidden: Tensor, block: int = 0) -> Tensor:
    """f of a block, from its weights."""
    f = method.backbone.anatomy.blocks[block][1].get_submodule(position)
    inner = torch.tanh(hidden @ f.down.weight.T + f.down.bias)
    return method.scale * (inner @ f.up.weight.T + f.up.bias)


def seen(method: BottleneckAdapter, block: int) -> dict[str, Any]:
    """What went into each part of a block, and out of the block, in one forward pass."""
    anatomy, calls = method.backbone.anatomy, {}
    for part in (part for role in anatomy.family.roles for part in anatomy.find(role) if part.block == block):
        part.module.register_forward_hook(lambda _, given, __, role=part.role: calls.update({role: given[0]}))
    anatomy.blocks[block][1].register_forward_hook(lambda _, __, output: calls.update(block=output))
    logits(method.backbone.model)
    calls["block"] = calls["block"][0] if isinstance(calls["block"], tuple) else calls["block"]
    return calls


def contribution(method: BottleneckAdapter, sublayer: str, block: int, hidden: Tensor) -> Tensor:
    """h: what the sublayer's last dense layer, and DINOv2's layer scale, make of `hidden`; no hook runs."""
    anatomy = method.backbone.anatomy
    dense = anatomy.find({"attention": "attention.output", "ffn": "ffn.down"}[sublayer])[block].module
    h = dense.forward(hidden)
    if method.backbone.model.config.model_type == "dinov2":
        h = h * anatomy.find(f"sublayer.{sublayer}_output")[block].module.lambda1
    return h


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


@every_equation
@pytest.mark.parametrize("family", POST_NORM)
def test_a_post_norm_block_computes_the_variants_equation(family: str, variant: str) -> None:
    method = perturbed(attached(variant, family, scale=0.7))
    calls = seen(method, 0)
    norm = method.backbone.anatomy.find("norm.ffn")[0].module.forward
    x, h = calls["ffn.up"], contribution(method, "ffn", 0, calls["ffn.down"])
    reads = {"houlsby": h, "pfeiffer": norm(x + h), "parallel": x}[variant]
    torch.testing.assert_close(calls["block"], norm(x + h + bottleneck(method, "adapter_ffn", reads)))


@every_equation
@pytest.mark.parametrize(("family", "block"), [*((family, 0) for family in PRE_NORM), ("t5", 3), ("swin", 2)])
def test_a_pre_norm_block_computes_the_variants_equation(family: str, block: int, variant: str) -> None:
    method = perturbed(attached(variant, family, scale=0.7))
    calls = seen(method, block)
    norm = method.backbone.anatomy.find("norm.ffn")[block].module.forward
    x, h = calls["norm.ffn"], contribution(method, "ffn", block, calls["ffn.down"])
    reads = {"houlsby": h, "pfeiffer": x + h, "parallel": norm(x)}[variant]
    torch.testing.assert_close(calls["block"], x + h + bottleneck(method, "adapter_ffn", reads, block))


@pytest.mark.parametrize("family", POST_NORM)
def test_houlsby_adapts_the_attention_output_before_it_is_added_and_normalised(family: str) -> None:
    method = perturbed(attached("houlsby", family))
    calls = seen(method, 0)
    norm = method.backbone.anatomy.find("norm.attention")[0].module.forward
    x, h = calls["attention.value"], contribution(method, "attention", 0, calls["attention.output"])
    torch.testing.assert_close(calls["ffn.up"], norm(x + h + bottleneck(method, "adapter_attention", h)))


@pytest.mark.parametrize(("family", "block"), [(name, 2 if name == "swin" else 0) for name in PRE_NORM])
def test_houlsby_adapts_the_attention_output_before_it_is_added(family: str, block: int) -> None:
    method = perturbed(attached("houlsby", family))
    calls = seen(method, block)
    x, h = calls["norm.attention"], contribution(method, "attention", block, calls["attention.output"])
    expected = x + h + bottleneck(method, "adapter_attention", h, block).view_as(x)
    torch.testing.assert_close(calls["norm.ffn"], expected)


def test_an_adapter_is_as_wide_as_its_block() -> None:
    model = attached("pfeiffer", "swin").backbone.model
    shapes = [
        tuple(tensor.shape) for name, tensor in model.named_parameters() if name.endswith("adapter_ffn.down.weight")
    ]
    assert shapes == [(8, 32), (8, 32), (16, 64)]


@every_variant
def test_a_language_model_trains_its_adapters_alone(variant: str) -> None:
    names = [name for name, _ in trainable(attached(variant, model=language_model("llama")).backbone.model)]
    assert names
    assert all("adapter_" in name for name in names)


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
    model(**inputs("bert"), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
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


@every_family
@every_variant
def test_gradient_checkpointing_gives_the_same_gradients(variant: str, family: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = perturbed(attached(variant, family)).backbone.model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**inputs(family), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
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
