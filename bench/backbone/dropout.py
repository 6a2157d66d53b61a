"""Dropout that is cheap on CPU and is still dropout.

PyTorch's CPU dropout draws one Bernoulli number per element from a scalar generator (about 10 ns each) and multiplies
by a boolean mask without vector instructions. Here each 64-bit word of the same generator decides four elements: a
16-bit lane, uniform on 0..65535, keeps its element when it is at least `round(65536 p)`. Every element is therefore
dropped independently with probability

    q = round(65536 p) / 65536,    |q - p| <= 2^-17,

and the kept ones are scaled by 1 / (1 - q), so the expectation is exact. The mask is kept for the backward pass as one
byte per element.

Attention probabilities are dropped inside PyTorch's `scaled_dot_product_attention`, which accepts no mask from outside.
Models that choose their attention through the transformers registry are pointed at `attention_with_fast_dropout`, which
writes the attention out while dropout is active and calls the usual implementation otherwise.

All randomness comes from PyTorch's default CPU generator, so `torch.manual_seed` and `torch.get_rng_state` reproduce
and resume it. Tensors on other devices get PyTorch's own dropout, which is one fused kernel there.
"""

import math
from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

LANE_VALUES = 1 << 16
LANES_PER_WORD = 4
VECTOR_LANES = 16
"""float32 numbers in one AVX-512 register."""
ATTENTION_NAME = "sdpa_fast_dropout"
"""The attention's name in transformers; it contains "sdpa" so that transformers checks that the model supports SDPA."""


def use_fast_dropout(model: nn.Module) -> int:
    """Make dropout in `model` cheap on CPU, in place, before or after PEFT wraps it.

    Changes every module that is exactly an `nn.Dropout`, and the attention of transformers models that use SDPA through
    the attention registry. Parameters, buffers and `state_dict` keys stay as they are; a second call changes nothing.

    Returns the number of sites changed: dropout modules plus transformers configurations with redirected attention.
    """
    return _speed_up_dropout_modules(model) + _redirect_attention(model)


class FastDropout(nn.Dropout):
    """`nn.Dropout` with `fast_dropout` in training mode."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Drop elements of a tensor of any shape; the identity in eval mode."""
        if not self.training:
            return input
        if self.inplace:
            return super().forward(input)
        return fast_dropout(input, self.p)


def fast_dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """Zero each element of `x` (any shape) independently with probability `p` and scale the others, as in training.

    `p` is rounded to a multiple of 1/65536; where that gives 0, `x` itself is returned and no random number is drawn.
    """
    dropped_values = round(p * LANE_VALUES)
    if x.device.type != "cpu" or not 0 <= dropped_values < LANE_VALUES:
        return nn.functional.dropout(x, p)
    if dropped_values == 0:
        return x
    return cast(torch.Tensor, _MaskAndScale.apply(x, dropped_values))  # type: ignore[no-untyped-call]


class _MaskAndScale(torch.autograd.Function):
    """x -> x * mask / (1 - q) with gradient g -> g * mask / (1 - q), for the same mask of one byte per element."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dropped_values: int) -> torch.Tensor:
        mask = draw_keep_mask(x.shape, dropped_values)
        ctx.save_for_backward(mask)
        ctx.scale = LANE_VALUES / (LANE_VALUES - dropped_values)
        return _apply_mask(x, mask, ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _apply_mask(gradients[0], mask, ctx.scale), None


def _apply_mask(x: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """Return `x * mask * scale`; converting the bytes first keeps all three passes on vector instructions."""
    return mask.to(x.dtype).mul_(x).mul_(scale)


def draw_keep_mask(shape: torch.Size, dropped_values: int) -> torch.Tensor:
    """Draw a uint8 mask of `shape`: each element is 0 with probability `dropped_values / 65536`, independently, else 1.

    `random_(-2**63, None)` draws from the whole int64 range; plain `random_()` would leave the sign bit 0. The
    comparison writes into uint8 because boolean results, and products with them, are several times slower.
    """
    words = torch.empty(-(-math.prod(shape) // LANES_PER_WORD), dtype=torch.int64, device="cpu")
    lanes = words.random_(-(2**63), None).view(torch.int16)[: math.prod(shape)].view(shape)
    threshold = dropped_values - LANE_VALUES // 2
    return torch.ge(lanes, threshold, out=torch.empty(shape, dtype=torch.uint8, device="cpu"))


def attention_with_fast_dropout(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `sdpa_attention_forward` of transformers does, with `fast_dropout` on the attention probabilities.

    Without dropout, on other devices, and with `softcap` or `cache`, which are left to it, this is that function.

    Shapes: query (batch, heads, queries, head_dim); key and value (batch, key_value_heads, keys, head_dim), where heads
    is a multiple of key_value_heads; attention_mask broadcastable to (batch, heads, queries, keys), boolean (True =
    attend) or additive; position_bias likewise, additive. Returns (batch, queries, heads, head_dim) and no weights.
    """
    native_only = kwargs.get("softcap") is not None or kwargs.get("cache") is not None
    if dropout == 0.0 or query.device.type != "cpu" or native_only:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias, **kwargs
        )
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    if attention_mask is None and is_causal and query.shape[2] > 1:
        attention_mask = _causal_mask(query.shape[2], key.shape[2])
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    probabilities = attention_probabilities(query, key, attention_mask, scaling, position_bias)
    output = torch.matmul(fast_dropout(probabilities, dropout), value.to(probabilities.dtype))
    return output.to(value.dtype).transpose(1, 2).contiguous(), None


def attention_probabilities(
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax(scaling * query key^T + position_bias + mask), shape (batch, heads, queries, keys).

    Half-precision inputs are converted to float32 and so is the result, as in SDPA's own unfused implementation. A
    query that may attend to nothing (padding) averages over all keys, as in transformers' eager attention.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query.to(dtype), key.to(dtype).transpose(-1, -2)).mul_(scale)
    if position_bias is not None:
        scores = scores.add_(position_bias)
    if attention_mask is not None:
        scores = scores.add_(_additive_mask(attention_mask, scores.dtype))
    return _softmax(scores)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension; rows shorter than a vector register are padded, as PyTorch is slow on those.

    Batches of short sentences have such rows: at 15 keys, PyTorch's softmax takes six times as long as at 16.
    """
    keys = scores.shape[-1]
    if keys >= VECTOR_LANES:
        return scores.softmax(dim=-1)
    return nn.functional.pad(scores, (0, VECTOR_LANES - keys), value=-math.inf).softmax(dim=-1)[..., :keys]


def _additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn a boolean mask (True = attend) into 0 and the lowest number of `dtype`; leave an additive mask alone."""
    if mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)


def _causal_mask(queries: int, keys: int) -> torch.Tensor:
    """Boolean (queries, keys) mask aligned at the upper left: query i attends to keys 0..i, as SDPA's `is_causal`."""
    return torch.ones(queries, keys, dtype=torch.bool, device="cpu").tril()


def _speed_up_dropout_modules(model: nn.Module) -> int:
    """Turn each plain `nn.Dropout` into a `FastDropout`; changing the class keeps hooks, mode and shared modules."""
    plain = [module for module in model.modules() if type(module) is nn.Dropout]
    for module in plain:
        module.__class__ = FastDropout
    return len(plain)


def _redirect_attention(model: nn.Module) -> int:
    """Point transformers models that use SDPA at `attention_with_fast_dropout`; return how many configurations changed.

    Models without the attention registry (DeBERTa) are configured as "eager" and stay so, as do those set to it.
    """
    redirected = 0
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation == "sdpa":
            module.set_attn_implementation(ATTENTION_NAME)
            redirected += module.config._attn_implementation == ATTENTION_NAME
    return redirected


AttentionInterface.register(ATTENTION_NAME, attention_with_fast_dropout)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
