"""What every method promises, checked on every YAML of `conf/method`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.backbone.anatomy import Anatomy
from bench.evaluation import outputs
from bench.measure import parameters
from bench.measure.inference import difference
from bench.measure.throughput import StepClock
from bench.training.loop import accelerator, store_frozen_in
from methods.base import trainable
from tests.conftest import METHODS
from tests.methods.conftest import STEPS, attached, backbone, batch, examples, logits, loop, padded_batch, train

every_method = pytest.mark.parametrize("name", METHODS)
INPUTS = [batch(), padded_batch()]


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@every_method
def test_output_equals_the_base_models_at_step_0_where_the_method_says_so(name: str) -> None:
    method = attached(name)
    if not method.identity_at_start:
        pytest.skip("the method does not start at the base model")
    base = backbone().model.eval()
    for inputs in INPUTS:
        with torch.no_grad():
            expected = base(**{k: v for k, v in inputs.items() if k != "labels"}).logits
        assert relative_difference(logits(method, inputs), expected) < 1e-5


@every_method
def test_only_the_declared_tensors_change_in_training(name: str) -> None:
    method = attached(name)
    before = {n: p.detach().clone() for n, p in method.backbone.model.named_parameters()}
    declared = {n for n, _ in trainable(method.backbone.model)}
    train(method)
    changed = {n for n, p in method.backbone.model.named_parameters() if not torch.equal(p, before.get(n, p))}
    assert changed <= declared
    head = {n for n in changed if method.backbone.anatomy.is_head(n)}
    assert head, "the head learns"
    if parameters.count(method.backbone.model, method.backbone.anatomy).trainable:
        assert changed - head, "the method's own tensors learn"


@every_method
def test_frozen_tensors_get_no_gradient_and_the_optimizer_holds_the_others_once(name: str) -> None:
    method = attached(name)
    loss, _ = method.compute_loss(method.backbone.model.train(), batch())
    loss.backward()
    assert all(p.grad is None for p in method.backbone.model.parameters() if not p.requires_grad)
    held = [id(p) for group in method.parameter_groups(1e-3, 0.01) for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for _, p in trainable(method.backbone.model)}


@every_method
def test_a_saved_adapter_gives_the_same_logits_on_a_fresh_model(name: str, tmp_path: Path) -> None:
    method = attached(name)
    train(method).release()
    method.save(tmp_path)
    again = attached(name)
    again.load(tmp_path)
    for inputs in INPUTS:
        torch.testing.assert_close(logits(again, inputs), logits(method, inputs), rtol=0, atol=0)


@every_method
def test_the_inference_form_equals_the_trained_form(name: str) -> None:
    method = attached(name)
    train(method).release()
    expected = [logits(method, inputs) for inputs in INPUTS]
    method.finish()
    for inputs, before in zip(INPUTS, expected, strict=True):
        assert relative_difference(logits(method, inputs), before) < 1e-4


@every_method
def test_a_merged_model_is_no_larger_than_the_base(name: str) -> None:
    method = attached(name)
    if not method.mergeable:
        pytest.skip("the method does not merge")
    train(method).release()
    method.finish()
    assert parameters.total(method.backbone.model) == parameters.total(backbone().model)


@every_method
def test_two_runs_with_one_seed_are_bit_identical(name: str) -> None:
    def final() -> dict[str, torch.Tensor]:
        method = attached(name)
        train(method)
        return {n: p.detach().clone() for n, p in method.backbone.model.named_parameters()}

    first, second = final(), final()
    assert all(torch.equal(first[n], second[n]) for n in first)


@every_method
def test_a_resumed_run_equals_an_uninterrupted_one(name: str) -> None:
    whole = attached(name)
    train(whole)
    half = attached(name)
    state = train(half, until=STEPS // 2).state_dict()
    resumed = attached(name)
    torch.manual_seed(99)
    rest = loop(resumed)
    rest.load_state_dict(state)
    rest.run(StepClock("cpu"), lambda point: None)
    expected = dict(whole.backbone.model.named_parameters())
    for n, parameter in resumed.backbone.model.named_parameters():
        assert torch.equal(parameter, expected[n]), n


@every_method
def test_a_method_states_its_source(name: str) -> None:
    assert attached(name).paper


# Hidden size 64, feed-forward 128, two layers: a query or value matrix is 64 x 64.
D, FFN, LAYERS = 64, 128, 2
QV = 2 * LAYERS
COUNTS: dict[str, tuple[dict[str, Any], int]] = {
    "linear_probe": ({}, 0),
    "bitfit": ({}, LAYERS * (7 * D + FFN) + D + D),  # layers, embedding norm, pooler
    "lora": ({"rank": 4}, QV * 4 * (D + D)),
    "rslora": ({"rank": 4}, QV * 4 * (D + D)),
    "lora_plus": ({"rank": 4}, QV * 4 * (D + D)),
    "dora": ({"rank": 4}, QV * (4 * (D + D) + D)),
    "pissa": ({"rank": 4}, QV * 4 * (D + D)),
    "adalora": ({"rank": 2, "initial_rank": 3}, 3 * LAYERS * (4 * (2 * D + 1) + 2 * (D + FFN + 1))),
    "houlsby": ({}, 2 * LAYERS * (2 * D * (D // 16) + D // 16 + D)),
    "pfeiffer": ({}, LAYERS * (2 * D * (D // 16) + D // 16 + D)),
    "parallel_adapter": ({}, LAYERS * (2 * D * (D // 2) + D // 2 + D)),
    "prompt_tuning": ({"length": 5}, 5 * D),
    "prefix_tuning": ({"length": 5}, 5 * 2 * LAYERS * D),
    "ia3": ({}, LAYERS * (D + D + FFN)),
    "vera": ({"rank": 4}, QV * (4 + D)),
    "hra": ({"rank": 4}, QV * 4 * D),
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_trainable_parameters_follow_the_methods_formula(name: str) -> None:
    changes, expected = COUNTS[name]
    method = attached(name, **changes)
    assert parameters.count(method.backbone.model, method.backbone.anatomy).trainable == expected


def test_full_fine_tuning_trains_everything_once() -> None:
    method = attached("full")
    counts = parameters.count(method.backbone.model, method.backbone.anatomy)
    assert counts.trainable + counts.head == counts.total == parameters.total(backbone().model)


def test_the_head_is_counted_apart_and_peft_s_copy_of_it_not_at_all() -> None:
    lora = attached("lora")
    counts = parameters.count(lora.backbone.model, lora.backbone.anatomy)
    assert counts.head == 3 * D + 3
    assert counts.total == parameters.total(backbone().model) + counts.trainable


def test_roles_are_found_in_every_family() -> None:
    base = backbone()
    anatomy = Anatomy(base.model, "bert")
    assert [part.name for part in anatomy.match(["attention.query"])] == [
        f"bert.encoder.layer.{i}.attention.self.query" for i in range(LAYERS)
    ]
    assert len(anatomy.match(["attention", "ffn"])) == 6 * LAYERS


@every_method
def test_a_run_in_half_precision_trains_and_serves(name: str) -> None:
    method = attached(name)
    store_frozen_in(method.backbone.model, "bf16")
    runner = accelerator("cpu", "bf16")
    training = loop(method, precision="bf16")
    assert np.isfinite(training.run(StepClock("cpu"), lambda point: None))
    training.release()
    trained = outputs(method.backbone, examples(), 8, runner.device, runner.autocast())
    method.finish()
    served = outputs(method.backbone, examples(), 8, runner.device, runner.autocast())
    assert not difference({"": trained}, {"": served}).exceeds("bf16")
