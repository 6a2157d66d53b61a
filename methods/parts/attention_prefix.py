"""Trained keys and values that an attention layer sees ahead of its own: prefixes where PEFT has none, as in ViT.

A layer's module `prefix` holds them; the attention function of the model, which transformers looks up by name, puts
them in. It goes on to `attention_with_fast_dropout`, so that dropout costs what it costs without a prefix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from bench.anatomy import Anatomy
from bench.dropout import attention_with_fast_dropout

ATTENTION_NAME = "sdpa_prefix"
"""The attention's name in transformers; it contains "sdpa" so that transformers checks that the model supports SDPA."""
PREFIX_NAME = "prefix"


class AttentionPrefix(nn.Module):
    """`length` keys and values of one attention layer, each (length, width) and float32, shared by all its inputs.

    They start standard normal, as PEFT's prefixes of text models do, and their learning rate serves here as well: on a
    small ViT a smaller scale (0.3 and 0.1) learnt less. A prefix has no place and no window; every query sees it all.
    """

    def __init__(self, length: int, width: int, device: torch.device) -> None:
        super().__init__()
        # Drawn on the CPU, so that a seed gives the same start on every device.
        self.keys = nn.Parameter(torch.randn(length, width).to(device))
        self.values = nn.Parameter(torch.randn(length, width).to(device))

    def forward(self, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values (batch, heads, tokens, head width) and mask (..., tokens) with the prefix ahead of each."""
        if mask is not None:
            mask = pad(mask, (len(self.keys), 0), value=mask.dtype == torch.bool)
        return self._ahead_of(key, self.keys), self._ahead_of(value, self.values), mask

    def _ahead_of(self, states: Tensor, prefix: Tensor) -> Tensor:
        examples, heads, _, width = states.shape
        split = prefix.to(states.dtype).view(len(prefix), heads, width).transpose(0, 1)
        return torch.cat((split.expand(examples, -1, -1, -1), states), dim=2)


def add_prefixes(model: PreTrainedModel, anatomy: Anatomy, length: int) -> None:
    """Give every attention layer of `model` a prefix of its own, 2 * length * width numbers."""
    for part in anatomy.find("attention.key"):
        weight = part.module.get_parameter("weight")
        layer = model.get_submodule(part.name.rpartition(".")[0])
        layer.add_module(PREFIX_NAME, AttentionPrefix(length, len(weight), weight.device))
    model.set_attn_implementation(ATTENTION_NAME)


def attention_with_prefix(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attend as `attention_with_fast_dropout` does, to the prefix of `module` as well."""
    key, value, attention_mask = module.get_submodule(PREFIX_NAME)(key, value, attention_mask)
    return attention_with_fast_dropout(module, query, key, value, attention_mask, **settings)


AttentionInterface.register(ATTENTION_NAME, attention_with_prefix)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
