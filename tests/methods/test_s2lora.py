"""S2-LoRA (a reconstruction): what is shared, what makes the coefficients sparse, and what is left of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import SettingsError
from bench.measure.throughput import StepClock
from methods.base import ADAPTER_FILE, trainable
from methods.parts.linear import weight_of
from methods.s2lora import S2Lora
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, loop, method_named, train

RANK, LAYERS = 4, 12
D, FFN = 64, 128
"""Widths of the test model; it has two blocks of six projections."""


def s2lora(**changes: Any) -> S2Lora:
    method = attached("s2lora", **{"rank": RANK} | changes)
    assert isinstance(method, S2Lora)
    return method


def perturbed(method: S2Lora) -> S2Lora:
    """All coefficients and factors far from their start."""
    torch.manual_seed(2)
    for tensor in (*method.coefficients, *method.A.values(), *method.B.values()):
        nn.init.normal_(tensor, std=0.3)
    return method


def coefficients(method: S2Lora) -> Tensor:
    """e of all layers, (layers, rank)."""
    return torch.stack([e.detach() for e in method.coefficients])


def set_coefficients(method: S2Lora, values: Tensor) -> None:
    with torch.no_grad():
        for e, row in zip(method.coefficients, values, strict=True):
            e.copy_(row)


class TestSharing:
    def test_layers_of_one_width_share_the_very_tensor(self) -> None:
        method = s2lora()
        assert {width: tuple(down.shape) for width, down in method.A.items()} == {D: (RANK, D), FFN: (RANK, FFN)}
        assert {width: tuple(up.shape) for width, up in method.B.items()} == {D: (D, RANK), FFN: (FFN, RANK)}
        for layer in method.layers.values():
            assert layer.A is method.A[layer.in_features]
            assert layer.B is method.B[layer.out_features]

    def test_the_model_and_the_optimizer_hold_every_tensor_once(self) -> None:
        method = s2lora()
        names = [name for name, _ in trainable(method.backbone.model) if "classifier" not in name]
        assert len(names) == 4 + LAYERS
        held = [id(tensor) for group in method.parameter_groups(0.1, 0.01) for tensor in group["params"]]
        assert len(held) == len(set(held)) == 4 + LAYERS + 2

    def test_a_copied_model_shares_its_own(self) -> None:
        method = s2lora()
        twin = copy.deepcopy(method.backbone.model)
        first, second = (twin.get_submodule(name) for name in list(method.layers)[:2])
        assert first.A is second.A
        assert first.A is not method.A[D]

    def test_the_file_holds_shared_tensors_once_and_loading_keeps_them_shared(self, tmp_path: Path) -> None:
        method, again = perturbed(s2lora()), s2lora()
        method.save(tmp_path)
        stored = load_file(tmp_path / ADAPTER_FILE)
        head = sum(tensor.numel() for name, tensor in stored.items() if "classifier" in name)
        assert sum(tensor.numel() for tensor in stored.values()) - head == RANK * 2 * (D + FFN) + RANK * LAYERS
        again.load(tmp_path)
        assert all(layer.A is again.A[layer.in_features] for layer in again.layers.values())
        assert torch.equal(logits(again, batch()), logits(method, batch()))

    def test_a_shared_tensor_gets_the_sum_of_the_gradients_of_its_layers(self) -> None:
        method = perturbed(s2lora())
        model = method.backbone.model.eval()
        alone = copy.deepcopy(model)
        for name in method.layers:
            layer = alone.get_submodule(name)
            layer.A, layer.B = nn.Parameter(layer.A.detach().clone()), nn.Parameter(layer.B.detach().clone())
        for network in (model, alone):
            network(**batch()).loss.backward()
        for width, shared in method.A.items():
            parts = [alone.get_submodule(n).A.grad for n, layer in method.layers.items() if layer.in_features == width]
            torch.testing.assert_close(shared.grad, torch.stack(parts).sum(0))

    def test_zero_coefficients_give_back_the_base_layer_and_touch_no_other(self) -> None:
        method, hidden = perturbed(s2lora()), torch.randn(3, D)
        first, second = list(method.layers.values())[:2]
        expected = second(hidden)
        nn.init.zeros_(first.g)
        assert torch.equal(first(hidden), first.base(hidden))
        assert torch.equal(second(hidden), expected)

    @pytest.mark.parametrize(
        ("rank", "targets", "expected"),
        [
            (8, None, 62_016),
            (32, ["attention"], 50_688),
            (32, ["attention.query", "attention.value"], 49_920),
        ],
    )
    def test_roberta_base_has_the_parameters_of_the_formula(self, rank: int, targets: Any, expected: int) -> None:
        changes = {"rank": rank} if targets is None else {"rank": rank, "targets": targets}
        assert count_on_roberta_base("s2lora", **changes) == expected


class TestSparsity:
    def test_the_first_task_gradient_reaches_the_coefficients_alone(self) -> None:
        method = s2lora()
        method.backbone.model.eval()(**batch()).loss.backward()
        assert all(e.grad is not None and e.grad.any() for e in method.coefficients)
        assert not any(tensor.grad.any() for tensor in (*method.A.values(), *method.B.values()))

    def test_the_penalty_is_the_orthogonality_of_the_shared_factors_and_the_mean_coefficient(self) -> None:
        method = s2lora(sparsity="l1", lambda_1=0.5, orthogonality_weight=0.1)
        for down in method.A.values():
            nn.init.orthogonal_(down)
        for up in method.B.values():
            nn.init.orthogonal_(up)
        method.A[D].data *= 2  # A A^T - I = 3 I of size 4, norm 6
        set_coefficients(method, torch.tensor([1.0, -3.0, 0.0, 0.0]).expand(LAYERS, RANK))
        penalty = method.penalty()
        assert penalty is not None
        torch.testing.assert_close(penalty, torch.tensor(0.1 * 6 / 4 + 0.5 * 1.0))

    def test_without_weights_there_is_no_penalty(self) -> None:
        assert s2lora(sparsity="l1", lambda_1=0.0, orthogonality_weight=0.0).penalty() is None
        assert s2lora(sparsity="prox", orthogonality_weight=0.0).penalty() is None

    def test_the_coefficients_have_their_own_rate_and_no_decay(self) -> None:
        method = s2lora(coefficient_lr_ratio=5.0)
        own = method.parameter_groups(0.1, 0.01)[-1]
        assert [id(e) for e in own["params"]] == [id(e) for e in method.coefficients]
        assert (own["lr"], own["weight_decay"]) == (0.5, 0.0)

    def test_the_proximal_step_takes_the_learning_rate_times_tau(self) -> None:
        method = s2lora(sparsity="prox", tau=0.5)
        method.optimizer = torch.optim.AdamW(method.parameter_groups(0.2, 0.0))
        set_coefficients(method, torch.tensor([0.3, -0.3, 0.1, -0.05]).expand(LAYERS, RANK))
        method.after_step(0)
        torch.testing.assert_close(coefficients(method), torch.tensor([0.2, -0.2, 0, 0]).expand(LAYERS, RANK))

    def test_the_l1_term_leaves_the_coefficients_to_the_optimizer(self) -> None:
        method = perturbed(s2lora(sparsity="l1"))
        before = coefficients(method)
        method.after_step(0)
        assert torch.equal(coefficients(method), before)

    def test_training_with_the_proximal_step_ends_with_exact_zeros(self) -> None:
        method = s2lora(sparsity="prox", tau=0.9)
        train(method)
        assert 0 < int(coefficients(method).count_nonzero()) < RANK * LAYERS

    def test_the_l1_term_keeps_coefficients_small(self) -> None:
        free, held = (s2lora(sparsity="l1", lambda_1=weight) for weight in (0.0, 10.0))
        train(free)
        train(held)
        assert coefficients(held).abs().mean() < coefficients(free).abs().mean() / 4

    def test_a_resumed_run_takes_the_same_proximal_steps(self) -> None:
        whole, half, resumed = (s2lora(sparsity="prox", tau=0.9) for _ in range(3))
        train(whole)
        state = train(half, until=5).state_dict()
        rest = loop(resumed)
        rest.load_state_dict(state)
        rest.run(StepClock("cpu"), lambda point: None)
        assert torch.equal(coefficients(resumed), coefficients(whole))


class TestPruning:
    values = torch.zeros(LAYERS, RANK)
    values[0] = torch.tensor([10.0, -1.0, 0.99, 0.0])
    values[1] = torch.tensor([-0.5, 0.5, 2.0, -3.0])

    def test_with_l1_what_is_below_a_share_of_the_largest_goes(self) -> None:
        method = s2lora(sparsity="l1", epsilon=0.1)
        set_coefficients(method, self.values)
        assert method.kept()[:2].tolist() == [[True, True, False, False], [False, False, True, True]]

    def test_with_the_proximal_step_exact_zeros_go_and_nothing_else(self) -> None:
        method = s2lora(sparsity="prox", epsilon=0.1)
        set_coefficients(method, self.values)
        assert method.kept()[:2].tolist() == [[True, True, True, False], [True, True, True, True]]

    def test_nothing_is_kept_of_a_model_that_has_not_learned(self) -> None:
        assert not s2lora().kept().any()

    def test_the_report_has_every_layers_rank(self) -> None:
        method = s2lora(sparsity="l1", epsilon=0.1)
        set_coefficients(method, self.values)
        report = method.report()
        assert list(report["ranks"].values()) == [2, 2] + [0] * 10
        assert report["density"] == 4 / 48
        assert report["parameters_left"] == RANK * 2 * (D + FFN) + 4

    def test_the_merged_weight_is_that_of_the_kept_coefficients(self) -> None:
        method = perturbed(s2lora(sparsity="l1", epsilon=0.1, alpha=8))
        set_coefficients(method, self.values)
        name, layer = next(iter(method.layers.items()))
        expected = weight_of(layer.base) + 2 * (10 * torch.outer(layer.B[:, 0], layer.A[0]))
        expected -= 2 * torch.outer(layer.B[:, 1], layer.A[1])
        method.finish()
        merged = method.backbone.model.get_submodule(name)
        torch.testing.assert_close(weight_of(merged), expected.detach())

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"sparsity": "l2"}, "method.sparsity=l2 is unknown. Did you mean 'l1'?"),
            ({"lambda_1": -1.0}, "method.lambda_1=-1.0 must be at least 0"),
            ({"tau": -1.0}, "method.tau=-1.0 must be at least 0"),
            ({"orthogonality_weight": -1.0}, "method.orthogonality_weight=-1.0 must be at least 0"),
            ({"epsilon": 1.0}, "method.epsilon=1.0 must be at least 0 and below 1"),
            ({"coefficient_lr_ratio": 0.0}, "method.coefficient_lr_ratio=0.0 must be above 0"),
            ({"rank": 65}, r"method.rank=65 is above the size of bert.*query .64"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("s2lora", **settings).check(backbone().anatomy)
