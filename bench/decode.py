"""What makes a decoder's single steps cheap: a cache with room, and attention for one query per sequence on the CPU.

transformers' dynamic cache copies all keys and values at every token; here they lie in buffers with room for more. The
CPU kernel of scaled dot product attention works in blocks of queries and wants keys repeated per query head, both of
which cost several times the products themselves where there is one query; plain matrix products over groups of heads
give the same numbers up to rounding. Other devices and longer queries keep their kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bench.backbone.dropout import ATTENTION_NAME as TRAINING_ATTENTION

ATTENTION_NAME = "sdpa_one_query"
REPLACED = ("sdpa", TRAINING_ATTENTION)
ROOM = 64
"""Tokens that a buffer grows by."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, (sequences, heads, length, width), as views of buffers that have room behind."""

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append; copies what is there only when the room is used up or sequences have left."""
        length, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2] or self._moved():
            self._buffers = (_with_room(self.keys, end), _with_room(self.values, end))
        keys, values = self._buffers
        keys[..., length:end, :] = key_states
        values[..., length:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def _moved(self) -> bool:
        assert self._buffers is not None
        return self.keys.data_ptr() != self._buffers[0].data_ptr() or len(self.keys) != len(self._buffers[0])


def _with_room(tensor: Tensor, length: int) -> Tensor:
    buffer = tensor.new_empty(*tensor.shape[:2], length + ROOM, tensor.shape[-1])
    buffer[..., : tensor.shape[-2], :] = tensor
    return buffer


def give_room(cache: Cache) -> None:
    """Let the plain layers of a filled cache grow without copying; a sliding window stays as it is."""
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = RoomyLayer


def attention_of_one_query(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls; query (sequences, heads, 1, width), key and value
    (sequences, key heads, length, width), mask (sequences or 1, 1, 1, length) true where a key counts.
    """
    if query.shape[2] > 1 or query.device.type != "cpu" or key.shape[1] == 0:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    sequences, heads, _, width = query.shape
    grouped = query.reshape(sequences, key.shape[1], heads // key.shape[1], width)
    scores = grouped @ key.transpose(-1, -2) * (width**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        mask = attention_mask[..., : key.shape[2]]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    mixed = scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
    return mixed.reshape(sequences, 1, heads, width), None


@contextlib.contextmanager
def cheap_steps(model: nn.Module) -> Iterator[None]:
    """Within, the model's attention is that of this module; afterwards what it was."""
    replaced = [
        (module, module.config._attn_implementation)
        for module in model.modules()
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation in REPLACED
    ]
    for module, _ in replaced:
        module.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        for module, name in replaced:
            module.set_attn_implementation(name)


AttentionInterface.register(ATTENTION_NAME, attention_of_one_query)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
