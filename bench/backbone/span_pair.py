"""A pretrained encoder with SuperGLUE's head for two marked spans."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from bench.backbone.anatomy import HEAD_DROPOUT_NAMES


class SpanPairHead(nn.Module):
    """Both spans as weighted sums of their tokens, concatenated, to class logits.

    For hidden states h_t, score s_t = w h_t + b; a span's vector is the sum of h_t weighted by the softmax of s over
    the tokens of the span. Dropout and one linear layer follow: jiant's span heads (nyu-mll/jiant, the benchmark
    authors' toolkit) with AllenNLP's self-attentive span extractor.
    """

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * width, classes)

    def forward(self, hidden: Tensor, span_masks: Tensor) -> Tensor:
        """Hidden states (examples, length, width) and masks (examples, 2, length) to logits (examples, classes)."""
        scores = self.attention(hidden).squeeze(-1)[:, None].float()
        weights = scores.masked_fill(~span_masks, -torch.inf).softmax(dim=-1).to(hidden.dtype)
        return self.output(self.dropout((weights @ hidden).flatten(1)))


def head_dropout(config: PretrainedConfig) -> float:
    """Share of inputs that the head drops: what the family sets for its own head, else what its layers drop."""
    names = (*HEAD_DROPOUT_NAMES, "hidden_dropout_prob", "attention_dropout")
    return next((share for name in names if (share := getattr(config, name, None)) is not None), 0.0)


class SpanPairModel(PreTrainedModel):
    """The backbone of a sequence classification model under its usual name, with a `SpanPairHead`."""

    # The backbone has checked already which attention it supports.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, model: PreTrainedModel, prefix: str) -> None:
        super().__init__(model.config)
        self.base_model_prefix = prefix
        backbone = model.get_submodule(prefix)
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # its output is not read
        self.add_module(prefix, backbone)
        config = model.config
        self.span_classifier = SpanPairHead(config.hidden_size, config.num_labels, head_dropout(config))

    def forward(self, span_masks: Tensor | None = None, labels: None = None, **inputs: Any) -> SequenceClassifierOutput:
        """Logits (examples, classes). Without spans only the backbone runs, and there are no logits."""
        hidden = getattr(self, self.base_model_prefix)(**inputs)[0]
        if span_masks is None:
            return SequenceClassifierOutput(logits=None)
        hidden = hidden[:, -span_masks.shape[-1] :]  # a soft prompt lies ahead of the text
        return SequenceClassifierOutput(logits=self.span_classifier(hidden, span_masks))

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's token embeddings."""
        return getattr(self, self.base_model_prefix).get_input_embeddings()

    def _init_weights(self, module: nn.Module) -> None:
        """The family's own start of a linear layer: normal weights, zero bias."""
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=getattr(self.config, "initializer_range", 0.02))
            module.bias.zero_()
