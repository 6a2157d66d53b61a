"""Every method serves every kind of task, or refuses it in a sentence before anything is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.errors import SettingsError
from bench.evaluation import outputs
from bench.generation import Completion, Decoding, complete
from bench.measure.throughput import StepClock
from bench.settings import TrainingSettings
from bench.training.loop import TrainingLoop, accelerator
from methods.base import Method, trainable
from tasks.base import Examples
from tasks.examples import ChoiceExamples, PromptedExamples, SpanPairExamples, Tokens
from tasks.images import ImageExamples, ImageFormat
from tests.conftest import METHODS, ROOT
from tests.methods.conftest import BATCH, MODELS, attached, backbone, method_named
from tests.test_generation import Numbers

STEPS = 3
EXAMPLES = 10
NEW_TOKENS = 9

REFUSED = {(name, "image_classification"): "serves" for name in ("prompt_tuning", "p_tuning")} | {
    ("lily", model): "serves" for model in ("generation", "generation_gpt2")
}
"""Sentences in which methods refuse models."""


def examples(model: str) -> Examples:
    """Ten random examples for one of the models; texts of five to eleven tokens, images of 32 x 32 pixels."""
    random = np.random.default_rng(0)
    kind, _ = MODELS[model]
    labels, ids = random.integers(0, 2, EXAMPLES), np.arange(EXAMPLES)
    if kind == "image_classification":
        pixels = random.integers(0, 256, (EXAMPLES, 32, 32, 3), dtype=np.uint8)
        return ImageExamples(pixels, ImageFormat(32, (0.5,) * 3, (0.5,) * 3), labels, ids)
    rows = EXAMPLES * (2 if kind == "choice" else 1)
    tokens = Tokens.of([random.integers(4, 100, length).tolist() for length in random.integers(5, 12, rows)], 0)
    if kind == "choice":
        return ChoiceExamples(tokens, labels, ids, choices=2)
    if kind == "span_pair":
        return SpanPairExamples(tokens, labels, ids, spans=np.tile([[1, 2], [3, 4]], (EXAMPLES, 1, 1)))
    return PromptedExamples(tokens, labels, ids, prompt_lengths=random.integers(1, tokens.lengths - 1))


def refusal(name: str, model: str) -> str | None:
    """The sentence in which a method refuses a kind of task or its model; None where it serves."""
    method, base = method_named(name), backbone(model)
    if base.kind not in method.kinds:
        return f"{name} serves {', '.join(sorted(method.kinds))}."
    try:
        method.check(base.anatomy)
    except SettingsError as error:
        return str(error)
    return None


def answers(method: Method, model: str) -> NDArray[Any]:
    """The model's outputs for all examples in evaluation mode."""
    return outputs(method.backbone, examples(model), EXAMPLES, "cpu", contextlib.nullcontext())


def train(method: Method, model: str) -> None:
    """Three steps at the method's own learning rate."""
    settings = TrainingSettings(learning_rate=method.learning_rate, epochs=1, max_length=16, batch_size=BATCH)
    loop = TrainingLoop(method, examples(model), settings, accelerator("cpu", "fp32"), STEPS, seed=3)
    loop.run(StepClock("cpu"), lambda point: None)
    loop.release()


def completions(method: Method, model: str, batch_size: int) -> list[Completion]:
    base = dataclasses.replace(method.backbone, preprocessor=Numbers())
    decoding = Decoding(NEW_TOKENS, ())
    return complete(base, examples(model), decoding, batch_size, "cpu", contextlib.nullcontext())


def parameters(method: Method) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in method.backbone.model.named_parameters()}


def relative_difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("model", [model for model in MODELS if model != "classification"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_serves_a_kind_of_task_or_is_known_to_refuse_it(name: str, model: str, tmp_path: Path) -> None:
    refused = refusal(name, model)
    if refused is not None:
        assert re.search(REFUSED.get((name, model), "a refusal that this test does not know"), refused)
        assert re.fullmatch(r"[^\n]{20,250}\.", refused)
        return
    assert (name, model) not in REFUSED

    method = attached(name, STEPS, model)
    if method.identity_at_start:
        untouched = outputs(backbone(model), examples(model), EXAMPLES, "cpu", contextlib.nullcontext())
        assert relative_difference(answers(method, model), untouched) < 1e-5

    before, declared = parameters(method), {name for name, _ in trainable(method.backbone.model)}
    train(method, model)
    changed = {name for name, tensor in parameters(method).items() if not torch.equal(tensor, before.get(name, tensor))}
    head = {name for name in declared if method.backbone.anatomy.is_head(name)}
    assert changed <= declared
    assert head <= changed
    assert changed - head or name == "linear_probe"

    trained = answers(method, model)
    method.save(tmp_path)
    again = attached(name, STEPS, model)
    again.load(tmp_path)
    np.testing.assert_array_equal(answers(again, model), trained)

    if MODELS[model][0] == "generation":
        alone = completions(method, model, batch_size=1)
        assert completions(method, model, batch_size=8) == alone
        assert len({completion.text for completion in alone}) > EXAMPLES // 2, "what it says depends on the prompt"

    method.finish()
    assert relative_difference(answers(method, model), trained) < 1e-4


def test_the_page_of_methods_is_up_to_date() -> None:
    assert subprocess.run([sys.executable, str(ROOT / "scripts/document_methods.py"), "--check"]).returncode == 0
