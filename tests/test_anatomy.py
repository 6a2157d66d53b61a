"""Roles, heads and refusals in every family of models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, RobertaConfig

from bench.backbone.anatomy import FAMILIES, Anatomy
from bench.errors import SettingsError
from bench.measure import parameters
from methods.parts.linear import in_out_features
from tests.families import BLOCKS, CONFIGS, LANGUAGE, backbone, classifier, inputs, language_model
from tests.methods.conftest import method_named

every_family = pytest.mark.parametrize("family", CONFIGS)
every_model = pytest.mark.parametrize(
    ("make", "family"), [(classifier, name) for name in CONFIGS] + [(language_model, name) for name in LANGUAGE]
)

# The last block, its query and the norm of its feed-forward layer.
NAMES = {
    "bert": ("bert.encoder.layer.1", "attention.self.query", "output.LayerNorm"),
    "roberta": ("roberta.encoder.layer.1", "attention.self.query", "output.LayerNorm"),
    "electra": ("electra.encoder.layer.1", "attention.self.query", "output.LayerNorm"),
    "deberta-v2": ("deberta.encoder.layer.1", "attention.self.query_proj", "output.LayerNorm"),
    "gpt2": ("transformer.h.1", "attn.c_attn.query", "ln_2"),
    "llama": ("model.layers.1", "self_attn.q_proj", "post_attention_layernorm"),
    "qwen2": ("model.layers.1", "self_attn.q_proj", "post_attention_layernorm"),
    "gemma": ("model.layers.1", "self_attn.q_proj", "post_attention_layernorm"),
    "t5": ("transformer.decoder.block.1", "layer.0.SelfAttention.q", "layer.2.layer_norm"),
    "vit": ("vit.layers.1", "attention.q_proj", "layernorm_after"),
    "swin": ("swin.encoder.layers.1.blocks.0", "attention.q_proj", "layernorm_after"),
    "dinov2": ("dinov2.encoder.layer.1", "attention.q_proj", "norm2"),
}
SCORED = dict.fromkeys(("gpt2", "llama", "qwen2", "gemma"), ("score",))
HEADS = SCORED | {"deberta-v2": ("pooler", "classifier"), "t5": ("classification_head",)}
TIED = ("gpt2", "gemma", "t5")
WITHOUT_BIAS = ("llama", "gemma", "t5")
# LoRA of rank 4 on query and value adds 4 * (in + out) per layer, here mostly 32 + 32.
LORA = dict.fromkeys(CONFIGS, 2 * 2 * 4 * 64) | {
    **dict.fromkeys(("llama", "qwen2", "gemma"), 2 * 4 * (32 + 32) + 2 * 4 * (32 + 16)),
    "t5": 4 * 2 * 4 * 64,
    "swin": 2 * 2 * 4 * 64 + 1 * 2 * 4 * 128,
}


def groups(anatomy: Anatomy) -> list[str]:
    """The targets that stand for all linear layers of the blocks."""
    return ["attention", "ffn", *(["cross_attention"] if "cross_attention.query" in anatomy.family.roles else [])]


def test_every_family_of_the_table_is_tried_here() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@every_model
def test_every_role_is_found_once_in_every_block_that_has_it(make: Any, family: str) -> None:
    anatomy = backbone(make(family)).anatomy
    everywhere = list(range(BLOCKS[family]))
    assert len(anatomy.blocks) == len(everywhere)
    for role in anatomy.family.roles:
        expected = [2, 3] if "cross_attention" in role else everywhere
        if (family, role) == ("dinov2", "ffn.gate"):
            expected = []
        assert [part.block for part in anatomy.find(role)] == expected, role


@every_family
def test_blocks_and_parts_have_full_names(family: str) -> None:
    model = classifier(family)
    anatomy = backbone(model).anatomy
    block, query, norm = NAMES[family]
    found = anatomy.match(["attention.query"])[-1]
    assert anatomy.blocks[-1] == (block, model.get_submodule(block))
    assert (found.name, found.module) == (f"{block}.{query}", model.get_submodule(f"{block}.{query}"))
    assert anatomy.find("norm.ffn")[-1].name == f"{block}.{norm}"


def test_blocks_count_through_stages_and_from_encoder_to_decoder() -> None:
    swin, t5 = (backbone(model).anatomy for model in (classifier("swin"), language_model("t5")))
    stages = ["swin.encoder.layers.0.blocks.0", "swin.encoder.layers.0.blocks.1", "swin.encoder.layers.1.blocks.0"]
    assert [name for name, _ in swin.blocks] == stages
    assert [name for name, _ in t5.blocks] == [f"{side}.block.{i}" for side in ("encoder", "decoder") for i in (0, 1)]


@every_model
def test_the_linear_roles_are_all_the_linear_layers_of_the_blocks(make: Any, family: str) -> None:
    anatomy = backbone(make(family)).anatomy
    found = {part.name for part in anatomy.match(groups(anatomy))}
    linear = {
        f"{prefix}.{name}"
        for prefix, block in anatomy.blocks
        for name, module in block.named_modules()
        if type(module).__name__ == "Linear"
    }
    assert found == linear


@every_model
def test_the_norm_roles_are_all_the_norms_of_the_blocks(make: Any, family: str) -> None:
    anatomy = backbone(make(family)).anatomy
    found = {part.name for part in anatomy.match(["norm"])}
    norms = {
        f"{prefix}.{name}"
        for prefix, block in anatomy.blocks
        for name, module in block.named_modules()
        if type(module).__name__.endswith("Norm")
    }
    assert found == norms


@every_model
def test_layers_read_and_write_the_width_of_their_block(make: Any, family: str) -> None:
    anatomy = backbone(make(family)).anatomy
    widths = [32, 32, 64] if family == "swin" else [32] * BLOCKS[family]
    for part in (*anatomy.match(["attention.query", "ffn.up"]), *anatomy.find("ffn.gate")):
        assert in_out_features(part.module)[0] == widths[part.block], part.name
    for part in (*anatomy.find("attention.output"), *anatomy.find("ffn.down")):
        assert in_out_features(part.module)[1] == widths[part.block], part.name
    for up, down in zip(anatomy.find("ffn.up"), anatomy.find("ffn.down"), strict=True):
        assert in_out_features(up.module)[1] == in_out_features(down.module)[0]


@every_family
@pytest.mark.parametrize("target", ["attention.query", "attention.value", "attention", "ffn.up", "ffn", "norm"])
def test_the_common_targets_match_in_every_block(family: str, target: str) -> None:
    parts = backbone(classifier(family)).anatomy.match([target])
    assert {part.block for part in parts} == set(range(BLOCKS[family]))


@every_family
def test_a_classifier_has_its_familys_head_and_no_output_layer(family: str) -> None:
    anatomy = backbone(classifier(family)).anatomy
    assert anatomy.head == HEADS.get(family, ("classifier",))
    assert anatomy.output_layer is None


@pytest.mark.parametrize("family", LANGUAGE)
def test_a_language_model_has_a_pretrained_output_layer_and_no_head(family: str) -> None:
    model = language_model(family)
    anatomy = backbone(model).anatomy
    assert anatomy.head == ()
    assert anatomy.output_layer is model.get_output_embeddings()
    assert not any(anatomy.is_head(name) for name, _ in model.named_parameters())


def test_a_head_of_our_own_takes_the_place_of_the_familys() -> None:
    model = classifier("bert")
    del model.classifier
    model.span_classifier = torch.nn.Linear(64, 2)
    anatomy = backbone(model).anatomy
    assert anatomy.head == ("span_classifier",)
    assert anatomy.is_head("span_classifier.weight")
    assert not anatomy.is_head("bert.pooler.dense.weight")


@every_model
def test_every_parameter_belongs_to_one_of_backbone_head_and_output_layer(make: Any, family: str) -> None:
    model = make(family)
    anatomy = backbone(model).anatomy
    pretrained = set(anatomy.backbone.parameters())
    output = set(anatomy.output_layer.parameters()) if anatomy.output_layer else set()
    head = {parameter for name, parameter in model.named_parameters() if anatomy.is_head(name)}
    assert pretrained | output | head == set(model.parameters())
    assert not head & (pretrained | output)
    assert bool(pretrained & output) == (make is language_model and family in TIED)


@every_family
def test_lora_on_query_and_value_adds_its_factors_and_keeps_the_head_apart(family: str) -> None:
    base = backbone(classifier(family))
    head = sum(tensor.numel() for name in base.anatomy.head for tensor in base.model.get_submodule(name).parameters())
    method = method_named("lora", rank=4)
    method.check(base.anatomy)
    method.attach(base, 10)
    counts = parameters.count(base.model, base.anatomy)
    assert (counts.trainable, counts.head) == (LORA[family], head)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (name, family)
        for name in ("lora", "adalora", "houlsby", "pfeiffer", "parallel_adapter", "bitfit", "linear_probe")
        for family in CONFIGS
        if not (name == "bitfit" and family in WITHOUT_BIAS)
    ],
)
def test_methods_attach_learn_and_merge_in_every_family(name: str, family: str) -> None:
    base = backbone(classifier(family))
    method = method_named(name)
    method.check(base.anatomy)
    method.attach(base, 10)
    batch = {**inputs(family), "labels": torch.tensor([0, 1, 0, 1])}
    optimizer = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    losses = []
    base.model.eval()
    for step in range(10):
        method.before_step(step)
        loss, task_loss = method.compute_loss(base.model, batch)
        loss.backward()
        method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        optimizer.zero_grad()
        losses.append(float(task_loss.detach()))
    assert losses[-1] < losses[0]
    with torch.no_grad():
        trained = base.model(**inputs(family)).logits
        method.finish()
        merged = base.model.eval()(**inputs(family)).logits
    torch.testing.assert_close(merged, trained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", WITHOUT_BIAS)
def test_bitfit_is_refused_where_the_blocks_have_no_bias(family: str) -> None:
    with pytest.raises(SettingsError, match="needs a model with bias terms"):
        method_named("bitfit").check(backbone(classifier(family)).anatomy)


def test_attention_is_self_attention_and_cross_attention_is_asked_for() -> None:
    anatomy = backbone(language_model("t5")).anatomy
    layers = {target: [part.name for part in anatomy.match([target])] for target in ("attention", "cross_attention")}
    assert [".SelfAttention." in name for name in layers["attention"]] == [True] * 4 * 4
    assert [".EncDecAttention." in name for name in layers["cross_attention"]] == [True] * 2 * 4


@pytest.mark.parametrize(
    ("family", "changes", "names"),
    [
        ("t5", {"is_gated_act": False}, ("wi", None, "wo")),
        ("t5", {"is_gated_act": True}, ("wi_1", "wi_0", "wo")),
        ("dinov2", {"use_swiglu_ffn": False}, ("fc1", None, "fc2")),
        ("dinov2", {"use_swiglu_ffn": True}, ("up_proj", "gate_proj", "down_proj")),
    ],
)
def test_a_feed_forward_layer_has_a_gate_where_the_configuration_says_so(
    family: str, changes: dict[str, Any], names: tuple[str | None, ...]
) -> None:
    anatomy = backbone(classifier(family, **changes)).anatomy
    for role, name in zip(("ffn.up", "ffn.gate", "ffn.down"), names, strict=True):
        found = {part.name.rsplit(".", 1)[-1] for part in anatomy.find(role)}
        assert found == ({name} if name else set())


def test_targets_may_be_module_names() -> None:
    anatomy = backbone(classifier("roberta")).anatomy
    assert [p.name for p in anatomy.match(["intermediate.dense"])] == [p.name for p in anatomy.find("ffn.up")]


def test_a_role_that_the_family_lacks_is_refused_with_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"'ffn.gate' matches no module.*attention.query"):
        backbone(classifier("bert")).anatomy.match(["ffn.gate"])


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="No anatomy is known for model type 'reformer'"):
        Anatomy(torch.nn.Module(), "reformer")


# RoBERTa-base with a two-class head, built from its config without weights: published counts.
ROBERTA_BASE = {"bitfit": 102_144, "lora": 294_912, "dora": 313_344, "linear_probe": 0, "pfeiffer": 894_528}


@pytest.mark.parametrize("name", sorted(ROBERTA_BASE))
def test_counts_on_roberta_base_are_the_published_ones(name: str) -> None:
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    if name == "dora":
        model = model.to_empty(device="cpu")
    base = backbone(model)
    method = method_named(name)
    method.attach(base, 10)
    counts = parameters.count(base.model, base.anatomy)
    assert counts.trainable == ROBERTA_BASE[name]
    assert counts.head == 592_130
