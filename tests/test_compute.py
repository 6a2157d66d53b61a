"""FLOPs against formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import compute
from bench.measure.compute import Flops
from tests.methods.conftest import attached, backbone, batch

SAMPLES, INPUTS, OUTPUTS = 7, 16, 24


def linear(trainable: bool = True, first: bool = True) -> Flops:
    layer = nn.Linear(INPUTS, OUTPUTS).requires_grad_(trainable)
    x = torch.randn(SAMPLES, INPUTS, requires_grad=not first)
    return compute.of_training(lambda: layer(x).sum())


def test_a_linear_layer_costs_one_product_forward_and_two_backward() -> None:
    product = 2 * SAMPLES * INPUTS * OUTPUTS
    assert linear(first=False) == Flops(product, 2 * product)


def test_the_first_layer_needs_no_gradient_of_its_input() -> None:
    product = 2 * SAMPLES * INPUTS * OUTPUTS
    assert linear(first=True) == Flops(product, product)


def test_a_frozen_layer_needs_no_gradient_of_its_weight() -> None:
    product = 2 * SAMPLES * INPUTS * OUTPUTS
    assert linear(trainable=False, first=False) == Flops(product, product)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_costs_two_products_forward_and_four_backward_whatever_kernel_runs(dropout: float) -> None:
    heads, queries, keys, width = 3, 10, 12, 8
    q = torch.randn(2, heads, queries, width, requires_grad=True)
    k, v = (torch.randn(2, heads, keys, width, requires_grad=True) for _ in range(2))
    product = 2 * 2 * heads * queries * keys * width
    found = compute.of_training(lambda: nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout).sum())
    assert found == Flops(2 * product, 4 * product)


def test_training_a_model_counts_what_pytorchs_own_counter_counts() -> None:
    method = attached("full")
    model: Any = method.backbone.model
    model.train()  # with dropout, attention is written out, so that no kernel of its own is involved
    found = compute.of_training(lambda: method.compute_loss(model, batch())[0])
    with FlopCounterMode(display=False) as forward:
        loss, _ = method.compute_loss(model, batch())
    with FlopCounterMode(display=False) as backward:
        loss.backward()  # type: ignore[no-untyped-call]
    assert found == Flops(forward.get_total_flops(), backward.get_total_flops())


def resized(samples: int, length: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(4, 100, (samples, length)), "labels": torch.zeros(samples, dtype=torch.long)}


@pytest.mark.parametrize("name", ["full", "lora", "adalora", "houlsby", "prefix_tuning", "ia3", "prompt_tuning"])
def test_six_small_probes_give_the_flops_of_any_shape(name: str) -> None:
    method = attached(name)
    method.backbone.model.train()

    def count(samples: int, length: int) -> Flops:
        return compute.of_training(lambda: method.compute_loss(method.backbone.model, resized(samples, length))[0])

    by_shape = compute.by_shape(count)
    for shape in ((1, 5), (6, 9), (3, 40)):
        assert by_shape.agrees_with(count(*shape), *shape)
    assert not by_shape.agrees_with(count(3, 40), 3, 39)
    both = by_shape.over([(1, 5), (6, 9)])
    assert both.total == pytest.approx(count(1, 5).total + count(6, 9).total)


def backward_over_forward(name: str) -> float:
    method = attached(name)
    method.backbone.model.train()
    found = compute.of_training(lambda: method.compute_loss(method.backbone.model, batch())[0])
    return found.backward / found.forward


def test_lora_needs_half_of_the_backward_pass_and_a_probe_almost_none() -> None:
    assert backward_over_forward("full") == pytest.approx(2.0, rel=0.02)
    assert backward_over_forward("lora") == pytest.approx(1.0, rel=0.15)
    assert backward_over_forward("linear_probe") < 0.01


def test_merged_lora_costs_what_the_base_costs() -> None:
    inputs = {"input_ids": batch()["input_ids"]}
    plain = compute.of_inference(backbone().model.eval(), inputs)
    method = attached("lora")
    adapted = compute.of_inference(method.backbone.model.eval(), inputs)
    method.finish()
    assert adapted.forward > plain.forward
    assert compute.of_inference(method.backbone.model.eval(), inputs) == plain
