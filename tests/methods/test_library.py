"""What the harness sees to where PEFT alone would go on in silence."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.adamss.layer import AdamssLayer
from transformers import AutoModelForCausalLM

from bench.errors import SettingsError
from tests.families import CONFIGS, backbone, classifier, language_model
from tests.methods.conftest import attached, method_named, settings_of

BLOCKS_OF_BD_LORA = 4
RANK = 4


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("osf", "c_attn", "it passes them over"),
        ("olora", "attn.c_proj", "it does not start from their weights"),
        ("kasa", "c_attn", r"KaSA does not support `fan_in_fan_out=True` layers \(e.g. Conv1D\)"),
    ],
)
def test_a_layer_that_peft_gets_wrong_is_refused_before_training(name: str, target: str, reason: str) -> None:
    as_transformers_has_it = backbone(AutoModelForCausalLM.from_config(CONFIGS["gpt2"]))
    with pytest.raises(SettingsError, match=rf"cannot adapt the targets \(Conv1D\): {reason}\.$"):
        method_named(name, targets=[target]).check(as_transformers_has_it.anatomy)


def test_a_merge_that_peft_cannot_make_is_refused_before_training() -> None:
    method = method_named("beft")
    method.check(backbone(language_model("llama", attention_bias=True)).anatomy)
    with pytest.raises(SettingsError, match="Base layer has no bias"):
        method.check(backbone(language_model("llama")).anatomy)


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_bd_lora_has_blocks_in_b_but_in_a_where_a_layer_reads_what_is_split(family: str) -> None:
    base = backbone(classifier(family))
    method = method_named("bd_lora", rank=RANK, targets=["attention", "ffn"])
    method.attach(base, 10)
    factors = dict(base.model.named_parameters())
    for part in base.anatomy.match(["attention", "ffn"]):
        a, b = (factors[f"base_model.model.{part.name}.lora_{side}.default.weight"] for side in "AB")
        width_out, width_in = part.module.weight.shape
        split_by_inputs = part.role in ("attention.output", "ffn.down")
        assert a.shape == (RANK, width_in // BLOCKS_OF_BD_LORA if split_by_inputs else width_in)
        assert b.shape == (width_out, RANK if split_by_inputs else RANK // BLOCKS_OF_BD_LORA)


def test_adamss_goes_on_with_its_scores_where_the_layers_are() -> None:
    method = attached("adamss", options=settings_of("adamss")["options"] | {"use_asa": True})
    layers = [module for module in method.backbone.model.modules() if isinstance(module, AdamssLayer)]
    state = method.state_dict()
    state["scores"] = [[torch.ones(2), None] for _ in state["scores"]]
    method.backbone.model.to("meta")
    method.load_state_dict(state)
    for layer in layers:
        score, unknown = layer.exp_avg_ipt_A["default"]
        assert (score.device.type, unknown) == ("meta", None)
