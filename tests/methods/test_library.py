"""What the harness sees to where PEFT alone would go on in silence."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.adamss.layer import AdamssLayer
from transformers import AutoModelForCausalLM

from bench.errors import SettingsError
from methods.base import trainable
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


def test_kasa_takes_the_mean_of_its_penalties_over_the_layers() -> None:
    method = attached("kasa", rank=RANK, options={"kasa_config": {"beta": 0.1, "gamma": 0.01}})
    for name, tensor in method.backbone.model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.orthogonal_(tensor)
        elif "lora_B" in name:
            torch.nn.init.zeros_(tensor)
        elif "lora_diag" in name:
            torch.nn.init.ones_(tensor)
    # In each of the four layers ||d||^2 = 4, ||B^T B - I|| = ||I|| = 2 and ||A A^T - I|| = 0.
    torch.testing.assert_close(method.penalty(), torch.tensor(0.1 * 4 + 0.01 * 2))


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


@pytest.mark.parametrize(("name", "part"), [("ia3", "ia3_l"), ("boft", "boft_s"), ("beft", "beft_bias")])
def test_vectors_that_peft_stores_as_matrices_are_not_decayed(name: str, part: str) -> None:
    method = attached(name)
    decayed, plain = ({id(p) for p in group["params"]} for group in method.parameter_groups(1e-3, 0.1))
    vectors = {id(p) for n, p in trainable(method.backbone.model) if part in n}
    assert vectors
    assert vectors <= plain
    assert not vectors & decayed
