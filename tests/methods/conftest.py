"""What the shared method table needs: any method of `conf/method`, attached to a small random model."""

from __future__ import annotations

import copy
import functools
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForSequenceClassification, BertConfig

from bench.anatomy import Anatomy
from bench.backbone import Backbone
from bench.planning import build
from methods.base import Method
from tests.conftest import CONFIGURATION

SEED = 11
STEPS = 8
BATCH = 6


@functools.cache
def settings_of(name: str) -> dict[str, Any]:
    """The defaults of a method's YAML."""
    with hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        return OmegaConf.to_object(hydra.compose(f"method/{name}").method)  # type: ignore[return-value]


def method_named(name: str, **changes: Any) -> Method:
    return build(settings_of(name) | changes)


@functools.cache
def _pretrained() -> Any:
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=80,
        num_labels=3,
        pad_token_id=0,
    )
    return AutoModelForSequenceClassification.from_config(config)


def backbone() -> Backbone:
    """A fresh copy of one small random BERT."""
    model = copy.deepcopy(_pretrained())
    return Backbone(model, None, Anatomy(model, "bert"), "test/tiny")  # type: ignore[arg-type]


def attached(name: str, steps: int = STEPS, **changes: Any) -> Method:
    """The named method, checked and attached to a fresh model."""
    method = method_named(name, **changes)
    method.check(backbone().anatomy)
    base = backbone()
    torch.manual_seed(SEED)
    method.attach(base, steps)
    return method


def batch(step: int = 0) -> dict[str, torch.Tensor]:
    """Model input of shape (6, 9) without padding; other values at every step."""
    generator = torch.Generator().manual_seed(step)
    return {
        "input_ids": torch.randint(4, 100, (BATCH, 9), generator=generator),
        "labels": torch.randint(0, 3, (BATCH,), generator=generator),
    }


def padded_batch() -> dict[str, torch.Tensor]:
    """Model input of shape (6, 9) whose second half has four positions of padding."""
    inputs = batch(5)
    mask = torch.ones_like(inputs["input_ids"])
    mask[3:, 5:] = 0
    return {**inputs, "input_ids": inputs["input_ids"] * mask, "attention_mask": mask}


def logits(method: Method, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Outputs in evaluation mode, shape (6, 3)."""
    method.backbone.model.eval()
    with torch.no_grad():
        return method.backbone.model(**{k: v for k, v in inputs.items() if k != "labels"}).logits
