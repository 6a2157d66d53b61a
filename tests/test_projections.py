"""GPT-2 taken apart is the same model."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from bench.backbone.projections import take_apart
from tests.families import CONFIGS, inputs

WIDTH = 32


def test_the_same_weights_compute_the_same_model_with_one_layer_per_projection() -> None:
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(CONFIGS["gpt2"]).eval()
    for name, parameter in whole.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    apart = copy.deepcopy(whole)
    take_apart(apart)
    with torch.no_grad():
        expected, found = (model(**inputs("gpt2")).logits for model in (whole, apart))
    torch.testing.assert_close(found, expected)
    attention, fused = apart.transformer.h[1].attn.c_attn, whole.transformer.h[1].attn.c_attn
    assert torch.equal(attention.key.weight, fused.weight[:, WIDTH : 2 * WIDTH].T)
    assert torch.equal(attention.value.bias, fused.bias[2 * WIDTH :])
    assert not any(type(module).__name__ == "Conv1D" for module in apart.modules())
    assert sum(p.numel() for p in apart.parameters()) == sum(p.numel() for p in whole.parameters())
