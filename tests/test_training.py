"""The training loop: what it computes, whatever the batch is cut into."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bench.backbone.dropout import use_fast_dropout
from bench.errors import Diverged
from bench.evaluation import outputs
from bench.measure.throughput import StepClock
from bench.settings import TrainingSettings
from bench.training.loop import LogPoint, TrainingLoop, accelerator, store_frozen_in, total_steps
from tasks.examples import ContinuationExamples, PromptedExamples, TextExamples, Tokens
from tests.methods.conftest import attached

SETTINGS = TrainingSettings(learning_rate=1e-2, epochs=2, max_length=16, batch_size=8, log_steps=1)


def examples(count: int = 48) -> TextExamples:
    """Random tokens; the class is told by the second token."""
    random = np.random.default_rng(0)
    lengths = random.integers(4, 12, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(10, 100, offsets[-1]).astype(np.int32)
    labels = random.integers(0, 3, count)
    ids[offsets[:-1] + 1] = 4 + labels
    return TextExamples(Tokens(ids, None, offsets), labels, np.arange(count))


def run(name: str = "lora", steps: int = 12, micro: int | None = None, **changes: Any) -> tuple[list[LogPoint], Any]:
    method = attached(name)
    for module in method.backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = replace(SETTINGS, **changes)
    loop = TrainingLoop(method, examples(), settings, accelerator("cpu", "fp32"), steps, seed=0, micro_batch_size=micro)
    points: list[LogPoint] = []
    loop.run(StepClock("cpu"), points.append)
    return points, method


def test_losses_fall_on_something_learnable() -> None:
    points, _ = run("full", steps=40)
    assert points[-1].loss < 0.5 * points[0].loss


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_cutting_the_batch_into_forward_passes_changes_nothing(micro: int) -> None:
    whole, _ = run("full", steps=6)
    cut, _ = run("full", steps=6, micro=micro)
    assert [p.loss for p in cut] == pytest.approx([p.loss for p in whole], rel=2e-4)


@pytest.mark.parametrize("kind", ["generation", "likelihood"])
def test_cutting_a_batch_of_texts_of_unlike_lengths_changes_nothing(kind: str) -> None:
    """The loss is a mean over tokens, of which the forward passes have unlike numbers."""
    prompted = decoder_examples()
    first_rows = np.arange(0, len(prompted.tokens.lengths) + 1, 2)
    continuations = ContinuationExamples(
        prompted.tokens,
        np.arange(len(first_rows) - 1) % 2,
        np.arange(len(first_rows) - 1),
        first_rows=first_rows,
        context_lengths=prompted.prompt_lengths,
    )
    trained = prompted if kind == "generation" else continuations

    def losses(micro: int | None) -> list[float]:
        method = attached("full", model="generation")
        settings = replace(SETTINGS, learning_rate=1e-3, batch_size=5)
        loop = TrainingLoop(method, trained, settings, accelerator("cpu", "fp32"), 4, seed=0, micro_batch_size=micro)
        points: list[LogPoint] = []
        loop.run(StepClock("cpu"), points.append)
        return [point.loss for point in points]

    assert losses(2) == pytest.approx(losses(None), rel=1e-4)
    assert losses(1) == pytest.approx(losses(None), rel=1e-4)


def decoder_examples() -> PromptedExamples:
    """Ten random texts, one to ten tokens of each behind its prompt."""
    random = np.random.default_rng(0)
    tokens = Tokens.of([random.integers(4, 100, length).tolist() for length in range(3, 13)], 0)
    return PromptedExamples(tokens, np.zeros(10, np.int64), np.arange(10), prompt_lengths=np.full(10, 2))


def test_the_rate_warms_up_and_falls_linearly_to_zero() -> None:
    points, _ = run(steps=20, warmup_ratio=0.25)
    rates = [point.learning_rate for point in points]
    assert rates[:5] == pytest.approx([0, 2e-3, 4e-3, 6e-3, 8e-3])
    assert rates[5:] == pytest.approx([1e-2 * (15 - i) / 15 for i in range(15)])


def test_warm_up_may_be_given_in_steps() -> None:
    points, _ = run(steps=8, warmup_steps=4)
    assert points[4].learning_rate == pytest.approx(1e-2)


@pytest.mark.parametrize(("max_steps", "epochs", "expected"), [(7, 3.0, 7), (None, 3.0, 18), (None, 0.5, 3)])
def test_steps_come_from_the_budget_or_from_the_epochs(max_steps: int | None, epochs: float, expected: int) -> None:
    assert total_steps(replace(SETTINGS, max_steps=max_steps, epochs=epochs), 48) == expected


def test_only_matrices_are_decayed() -> None:
    method = attached("full")
    groups = method.parameter_groups(1e-3, 0.1)
    assert {p.ndim >= 2 for p in groups[0]["params"]} == {True}
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (0.1, 0.0)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(Diverged, match="at step"):
        run("full", steps=30, learning_rate=1e30, max_gradient_norm=1e30)


def test_half_precision_keeps_what_trains_in_float32() -> None:
    method = attached("lora")
    store_frozen_in(method.backbone.model, "bf16")
    dtypes = {p.requires_grad: p.dtype for p in method.backbone.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


@pytest.mark.parametrize("name", ["lora", "full", "adalora", "houlsby", "prefix_tuning", "ia3", "linear_probe"])
def test_methods_learn_in_bf16(name: str) -> None:
    method = attached(name, steps=30)
    use_fast_dropout(method.backbone.model)
    store_frozen_in(method.backbone.model, "bf16")
    settings = replace(SETTINGS, learning_rate=method.learning_rate * 5)
    loop = TrainingLoop(method, examples(), settings, accelerator("cpu", "bf16"), 30, seed=0)
    points: list[LogPoint] = []
    loop.run(StepClock("cpu"), points.append)
    loop.release()
    assert np.mean([p.loss for p in points[-6:]]) < np.mean([p.loss for p in points[:6]])


def test_outputs_do_not_depend_on_the_evaluation_batch() -> None:
    _, method = run(steps=3)
    runner = accelerator("cpu", "fp32")
    results = [outputs(method.backbone, examples(47), size, runner.device, runner.autocast()) for size in (1, 7, 128)]
    np.testing.assert_allclose(results[0], results[2], atol=1e-5)
    np.testing.assert_allclose(results[1], results[2], atol=1e-5)


def test_an_output_that_is_not_finite_is_no_prediction() -> None:
    _, method = run("full", steps=1)
    with torch.no_grad():
        next(iter(method.backbone.model.parameters())).fill_(float("nan"))
    runner = accelerator("cpu", "fp32")
    with pytest.raises(Diverged, match="outputs are not finite"):
        outputs(method.backbone, examples(), 8, runner.device, runner.autocast())


def test_nothing_keeps_the_optimizer_s_state_after_training() -> None:
    method = attached("full")
    loop = TrainingLoop(method, examples(), SETTINGS, accelerator("cpu", "fp32"), 2, seed=0)
    loop.run(StepClock("cpu"), lambda point: None)
    states = [weakref.ref(moments["exp_avg"]) for moments in loop.optimizer.state.values()]
    assert len(states) > 10
    assert all(state() is not None for state in states)
    loop.release()
    loop.let_go_of_optimizer()
    assert all(state() is None for state in states)
