"""What the shared method table needs: any method of `conf/method`, attached to a small random model."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import hydra
import numpy as np
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig

from bench.backbone.anatomy import Anatomy
from bench.backbone.pretrained import Backbone
from bench.backbone.span_pair import SpanPairModel
from bench.measure import parameters
from bench.measure.throughput import StepClock
from bench.planning import build
from bench.settings import TrainingSettings
from bench.training.loop import TrainingLoop, accelerator
from methods.base import Method
from tasks.examples import TextExamples, Tokens
from tests.conftest import CONFIGURATION
from tests.families import classifier, language_model

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


def _bert() -> Any:
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


def _llama() -> Any:
    """Grouped heads and biases in every linear layer; large weights, so that what it says depends on what it reads."""
    biases = {"attention_bias": True, "mlp_bias": True}
    return language_model("llama", **WIDE, **biases, num_key_value_heads=2, initializer_range=0.3)


WIDE = {"hidden_size": 64, "num_attention_heads": 4}
MODELS: Mapping[str, tuple[str, Callable[[], Any]]] = {
    "classification": ("classification", _bert),
    "choice": ("choice", lambda: classifier("bert", **WIDE, num_labels=1)),
    "span_pair": ("span_pair", lambda: SpanPairModel(classifier("bert", **WIDE), "bert")),
    "generation": ("generation", _llama),
    "generation_gpt2": ("generation", lambda: language_model("gpt2", n_embd=64, n_head=4, initializer_range=0.3)),
    "image_classification": ("image_classification", lambda: classifier("vit", **WIDE)),
}
"""By name: the kind of task, and the small random model that serves it."""


@functools.cache
def _pretrained(model: str) -> Any:
    _, make = MODELS[model]
    return make()


def backbone(model: str = "classification") -> Backbone:
    """A fresh copy of one of the models; by default a small random BERT with three classes."""
    fresh = copy.deepcopy(_pretrained(model))
    kind, _ = MODELS[model]
    return Backbone(fresh, None, Anatomy(fresh, fresh.config.model_type), "test/tiny", kind)


def attached(name: str, steps: int = STEPS, model: str = "classification", **changes: Any) -> Method:
    """The named method, checked and attached to a fresh model."""
    method = method_named(name, **changes)
    base = backbone(model)
    method.check(base.anatomy)
    torch.manual_seed(SEED)
    method.attach(base, steps)
    return method


def roberta_base() -> Backbone:
    """RoBERTa-base by its shapes alone, on the device `meta`: 12 blocks of width 768, for counts of parameters."""
    config = RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=2
    )
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    return Backbone(model, None, Anatomy(model, "roberta"), "test/roberta-base")


def count_on_roberta_base(name: str, steps: int = 100, **changes: Any) -> int:
    """Trainable parameters of the named method on RoBERTa-base, the head apart."""
    method, base = method_named(name, **changes), roberta_base()
    method.check(base.anatomy)
    method.attach(base, steps)
    return parameters.count(base.model, base.anatomy).trainable


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


def examples() -> TextExamples:
    """Twenty random examples of five to nine tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(5, 10, 20)
    ids = random.integers(4, 100, lengths.sum()).astype(np.int32)
    tokens = Tokens(ids, None, np.concatenate([[0], np.cumsum(lengths)]))
    return TextExamples(tokens, random.integers(0, 3, 20), np.arange(20))


def loop(method: Method, steps: int = STEPS, precision: str = "fp32") -> TrainingLoop:
    """A training loop of a few steps at the method's own learning rate."""
    settings = TrainingSettings(learning_rate=method.learning_rate, epochs=1, max_length=16, batch_size=BATCH)
    return TrainingLoop(method, examples(), settings, accelerator("cpu", precision), steps, seed=3)


def train(method: Method, until: int | None = None, steps: int = STEPS) -> TrainingLoop:
    """The loop of `steps` steps after a run to its end, or to the step `until`."""
    torch.manual_seed(1)
    training = loop(method, steps)
    training.run(StepClock("cpu"), lambda point: None, until)
    return training
