"""One tiny random model of every family: two blocks per stack or stage but Swin's last, width 32, no dropout."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    Dinov2Config,
    ElectraConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    RobertaConfig,
    SwinConfig,
    T5Config,
    ViTConfig,
)

from bench.backbone.anatomy import Anatomy
from bench.backbone.pretrained import Backbone
from bench.backbone.projections import take_apart

VOCABULARY = 100
PADDING, END = 0, 1
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODER = WIDE | DRY | {"intermediate_size": 64, "vocab_size": VOCABULARY, "pad_token_id": PADDING}
DECODER = WIDE | {
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": PADDING,
    "eos_token_id": END,
    "bos_token_id": 2,
}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**ENCODER),
    "roberta": RobertaConfig(**ENCODER | {"pad_token_id": 1}, max_position_embeddings=40),
    "electra": ElectraConfig(**ENCODER, embedding_size=16),
    "deberta-v2": DebertaV2Config(
        **ENCODER,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "gpt2": GPT2Config(
        n_embd=32,
        n_layer=2,
        n_head=2,
        vocab_size=VOCABULARY,
        pad_token_id=PADDING,
        bos_token_id=2,
        eos_token_id=END,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
    "llama": LlamaConfig(**DECODER),
    "qwen2": Qwen2Config(**DECODER),
    "gemma": GemmaConfig(**DECODER),
    "t5": T5Config(
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        vocab_size=VOCABULARY,
        pad_token_id=PADDING,
        eos_token_id=END,
        decoder_start_token_id=PADDING,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    ),
    "vit": ViTConfig(**WIDE, intermediate_size=64, image_size=32, patch_size=8),
    "swin": SwinConfig(
        image_size=32, patch_size=4, embed_dim=32, depths=[2, 1], num_heads=[2, 2], window_size=4, drop_path_rate=0.0
    ),
    "dinov2": Dinov2Config(**WIDE, mlp_ratio=2, image_size=32, patch_size=8),
}
BLOCKS = dict.fromkeys(CONFIGS, 2) | {"t5": 4, "swin": 3}
IMAGE = ("vit", "swin", "dinov2")
LANGUAGE = ("gpt2", "llama", "qwen2", "gemma", "t5")


def classifier(family: str, **changes: Any) -> Any:
    """The family's model for classes of texts or of images, with two of them; always the same weights."""
    model_class = AutoModelForImageClassification if family in IMAGE else AutoModelForSequenceClassification
    return _model(model_class, family, changes)


def language_model(family: str, **changes: Any) -> Any:
    """The family's model that predicts tokens; always the same weights."""
    return _model(AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM, family, changes)


def backbone(model: Any) -> Backbone:
    """The model as methods are given it."""
    anatomy = Anatomy(model, model.config.model_type)
    kind = "image_classification" if model.config.model_type in IMAGE else "classification"
    return Backbone(model=model, preprocessor=None, anatomy=anatomy, source="test", kind=kind)


def inputs(family: str, examples: int = 4) -> dict[str, Tensor]:
    """Images of 32 x 32 pixels, or texts of 7 tokens of which the last ends the text."""
    generator = torch.Generator().manual_seed(3)
    if family in IMAGE:
        return {"pixel_values": torch.randn(examples, 3, 32, 32, generator=generator)}
    tokens = torch.randint(3, VOCABULARY, (examples, 7), generator=generator)
    tokens[:, -1] = END if family == "t5" else tokens[:, -1]
    return {"input_ids": tokens}


def _model(model_class: Any, family: str, changes: dict[str, Any]) -> Any:
    config = copy.deepcopy(CONFIGS[family])
    config.num_labels = 2
    config.update(changes)
    torch.manual_seed(0)
    model = model_class.from_config(config).eval()
    take_apart(model)
    return model
