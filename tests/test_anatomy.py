"""Roles, heads and refusals in every family of models."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    ElectraConfig,
    GPT2Config,
    RobertaConfig,
)

from bench.anatomy import FAMILIES, Anatomy
from bench.backbone import Backbone
from bench.errors import SettingsError
from bench.measure import parameters
from tests.methods.conftest import method_named

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**SIZES, pad_token_id=0),
    "roberta": RobertaConfig(**SIZES, pad_token_id=1, max_position_embeddings=40),
    "electra": ElectraConfig(**SIZES, embedding_size=16, pad_token_id=0),
    "deberta-v2": DebertaV2Config(
        **SIZES,
        pad_token_id=0,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2),
}
every_family = pytest.mark.parametrize("family", sorted(CONFIGS))


@functools.cache
def _config(family: str) -> Any:
    config = CONFIGS[family]
    config.num_labels = 2
    return config


def backbone(family: str) -> Backbone:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(_config(family))
    return Backbone(model, None, Anatomy(model, family), "test")  # type: ignore[arg-type]


def test_every_family_of_the_table_is_tried_here() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@every_family
def test_every_role_is_found_once_per_block(family: str) -> None:
    anatomy = backbone(family).anatomy
    for role in anatomy.family.roles:
        parts = anatomy.find(role)
        assert [part.block for part in parts] == [0, 1], role


@every_family
def test_the_linear_roles_are_all_the_linear_layers_of_the_blocks(family: str) -> None:
    anatomy = backbone(family).anatomy
    found = {part.name for part in anatomy.match(["attention", "ffn"])}
    linear = {
        f"{prefix}.{name}"
        for prefix, block in anatomy.blocks
        for name, module in block.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D")
    }
    assert found == linear


@every_family
def test_the_head_is_what_the_pretrained_model_does_not_have(family: str) -> None:
    base = backbone(family)
    head = {name for name, _ in base.model.named_parameters() if base.anatomy.is_head(name)}
    pretrained = set(
        base.model.get_submodule(base.anatomy.family.backbone).state_dict(prefix=f"{base.anatomy.family.backbone}.")
    )
    assert head
    assert not head & pretrained
    assert head | pretrained >= {name for name, _ in base.model.named_parameters()}


@every_family
@pytest.mark.parametrize(
    "name", ["lora", "adalora", "houlsby", "pfeiffer", "parallel_adapter", "bitfit", "linear_probe"]
)
def test_methods_attach_learn_and_merge_in_every_family(name: str, family: str) -> None:
    base = backbone(family)
    method = method_named(name)
    method.check(base.anatomy)
    method.attach(base, 10)
    inputs = {"input_ids": torch.randint(3, 100, (4, 7)), "labels": torch.tensor([0, 1, 0, 1])}
    optimizer = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    losses = []
    base.model.eval()
    for step in range(10):
        method.before_step(step)
        loss, task_loss = method.compute_loss(base.model, inputs)
        loss.backward()
        method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        optimizer.zero_grad()
        losses.append(float(task_loss.detach()))
    assert losses[-1] < losses[0]
    with torch.no_grad():
        trained = base.model(input_ids=inputs["input_ids"]).logits
        method.finish()
        merged = base.model.eval()(input_ids=inputs["input_ids"]).logits
    torch.testing.assert_close(merged, trained, rtol=1e-4, atol=1e-5)


def test_fused_qkv_serves_the_roles_that_it_holds() -> None:
    anatomy = backbone("gpt2").anatomy
    assert [part.role for part in anatomy.match(["attention.query", "attention.value"])] == ["attention.qkv"] * 2


def test_targets_may_be_module_names() -> None:
    anatomy = backbone("roberta").anatomy
    assert [p.name for p in anatomy.match(["intermediate.dense"])] == [p.name for p in anatomy.find("ffn.up")]


def test_a_role_that_the_family_lacks_is_refused_with_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"'ffn.gate' matches no module.*attention.query"):
        backbone("bert").anatomy.match(["ffn.gate"])


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
    base = Backbone(model, None, Anatomy(model, "roberta"), "test")  # type: ignore[arg-type]
    method = method_named(name)
    method.attach(base, 10)
    counts = parameters.count(base.model, base.anatomy)
    assert counts.trainable == ROBERTA_BASE[name]
    assert counts.head == 592_130
