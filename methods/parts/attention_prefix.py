"""Trained keys and values that an attention layer sees ahead of its own: prefixes of every model but DeBERTa and T5.

A layer's module `prefix` holds them; the attention function of the model, which transformers looks up by name, puts
them in. It goes on to `attention_with_fast_dropout`, so that dropout costs what it costs without a prefix, and for a
decoder's single steps to `attention_of_one_query`. A cache holds real tokens alone, whose positions stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from bench.backbone.anatomy import Anatomy
from bench.backbone.dropout import attention_with_fast_dropout
from bench.backbone.projections import Projections
from bench.decode import attention_of_one_query

ATTENTION_NAME = "sdpa_prefix"
"""The attention's name in transformers; it contains "sdpa" so that transformers checks that the model supports SDPA."""
PREFIX_NAME = "prefix"


class Prefix(nn.Module):
    """What all inputs of an attention layer see ahead of themselves. It has no place and no window: all queries see it.

    A subclass has the keys and values (`states`).
    """

    def states(self) -> tuple[Tensor, Tensor]:
        """Keys and values, each (length, width)."""
        raise NotImplementedError

    def forward(self, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values (batch, heads, tokens, head width) and mask (..., tokens) with the prefix ahead of each."""
        keys, values = self.states()
        if mask is not None:
            mask = pad(mask, (len(keys), 0), value=mask.dtype == torch.bool)
        return _ahead_of(key, keys), _ahead_of(value, values), mask


class AttentionPrefix(Prefix):
    """`length` keys and values of one attention layer, each (length, width) and float32, shared by all its inputs.

    They start standard normal, as PEFT's prefixes of text models do, and their learning rate serves here as well: on a
    small ViT a smaller scale (0.3 and 0.1) learnt less.
    """

    def __init__(self, length: int, width: int, device: torch.device, std: float = 1.0) -> None:
        super().__init__()
        # Drawn on the CPU, so that a seed gives the same start on every device.
        self.keys = nn.Parameter((std * torch.randn(length, width)).to(device))
        self.values = nn.Parameter((std * torch.randn(length, width)).to(device))

    def states(self) -> tuple[Tensor, Tensor]:
        """The parameters themselves."""
        return self.keys, self.values


class PrefixGenerator(nn.Module):
    """The keys and values of all layers out of one embedding: tanh(E W_1 + b_1) W_2 + b_2 (He et al. 2022).

    E is (length, width) and normal, the layer W_1 from `width` to `middle`, W_2 from `middle` to the keys of the first
    layer, its values, the keys of the second and so on; both start as `nn.Linear` does. W_2 and b_2 are kept in one
    part per layer, of whose gradients none is as large as all of W_2. Computed in float32 also where the model is not,
    so that the finished prefix is the one of the training.
    """

    def __init__(self, length: int, width: int, middle: int, key_widths: Sequence[int]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, width))
        self.inner = nn.Linear(width, middle)
        self.outer = nn.ModuleList(nn.Linear(middle, 2 * key_width) for key_width in key_widths)

    def of_layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each (length, width of its keys); W_1 is a small part of the work."""
        with torch.autocast(self.embedding.device.type, enabled=False):
            keys, values = self.outer[index](self.inner(self.embedding).tanh()).chunk(2, dim=1)
        return keys, values


class GeneratedPrefix(Prefix):
    """The prefix of layer number `index` while its generator trains."""

    def __init__(self, generator: PrefixGenerator, index: int) -> None:
        super().__init__()
        self.generator = generator
        self.index = index

    def states(self) -> tuple[Tensor, Tensor]:
        """What the generator makes of its present weights."""
        return self.generator.of_layer(self.index)

    def finished(self) -> AttentionPrefix:
        """A prefix of its own, without the generator."""
        keys, values = (tensor.detach().clone() for tensor in self.states())
        prefix = AttentionPrefix(0, 0, keys.device)
        prefix.keys, prefix.values = nn.Parameter(keys), nn.Parameter(values)
        return prefix


def add_prefixes(model: PreTrainedModel, anatomy: Anatomy, length: int, std: float = 1.0) -> None:
    """Give every attention layer of `model` a prefix of its own, 2 * length * width numbers."""
    for layer, width, device in _layers(model, anatomy):
        layer.add_module(PREFIX_NAME, AttentionPrefix(length, width, device, std))
    model.set_attn_implementation(ATTENTION_NAME)


def add_generated_prefixes(model: PreTrainedModel, anatomy: Anatomy, length: int, width: int, middle: int) -> None:
    """Give every attention layer of `model` a prefix of one common generator, whose embedding is `width` wide."""
    layers = list(_layers(model, anatomy))
    generator = PrefixGenerator(length, width, middle, [key_width for _, key_width, _ in layers]).to(layers[0][2])
    for index, (layer, _, _) in enumerate(layers):
        layer.add_module(PREFIX_NAME, GeneratedPrefix(generator, index))
    model.set_attn_implementation(ATTENTION_NAME)


def attention_with_prefix(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attend as `attention_with_fast_dropout` does, to the prefix of `module` as well."""
    if attention_mask is None and query.shape[2] > 1 and _is_causal(module, settings):
        # The kernels' own causal mask would take the prefix for the first tokens.
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    key, value, attention_mask = module.get_submodule(PREFIX_NAME)(key, value, attention_mask)
    one_step = query.shape[2] == 1 and not module.training
    attend = attention_of_one_query if one_step else attention_with_fast_dropout
    return attend(module, query, key, value, attention_mask, **settings)


def _ahead_of(states: Tensor, prefix: Tensor) -> Tensor:
    """The prefix, (length, width), split in heads and ahead of (batch, heads, tokens, head width)."""
    examples, heads, _, width = states.shape
    split = prefix.to(states.dtype).view(len(prefix), heads, width).transpose(0, 1)
    return torch.cat((split.expand(examples, -1, -1, -1), states), dim=2)


def _is_causal(module: nn.Module, settings: dict[str, Any]) -> bool:
    """Whether an attention call without a mask lets a position see only those before it: transformers' rule."""
    asked = settings.get("is_causal")
    return bool(getattr(module, "is_causal", True) if asked is None else asked)


def _layers(model: PreTrainedModel, anatomy: Anatomy) -> Iterator[tuple[nn.Module, int, torch.device]]:
    """Every attention layer with the width of its keys and its device."""
    for part in anatomy.find("attention.key"):
        name = part.name.rpartition(".")[0]
        if isinstance(model.get_submodule(name), Projections):
            name = name.rpartition(".")[0]
        weight = part.module.get_parameter("weight")
        yield model.get_submodule(name), weight.shape[0], weight.device


AttentionInterface.register(ATTENTION_NAME, attention_with_prefix)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
