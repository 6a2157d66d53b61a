"""SoRA: thresholds, stages, gates and what is left of them, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import SettingsError
from bench.measure.throughput import StepClock
from methods.base import trainable
from methods.parts.gated_linear import GatedLinear, pruned_factors
from methods.parts.optimizer_groups import with_own_group
from methods.parts.proximal import apply_to_all, mean_magnitude, shrink_then_cut, soft_threshold
from methods.sora import Sora, Stages, thresholds
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, loop, method_named, train

STAGED = {"lambda_schedule": "linear", "xi": 0.0, "max_lambda": 0.6, "lambda_num": 4, "first_stage": 2}


def sora(steps: int = 8, **changes: Any) -> Sora:
    method = attached("sora", steps, **changes)
    assert isinstance(method, Sora)
    return method


def gates(method: Sora) -> Tensor:
    """All gates, (layers, rank)."""
    return torch.stack([gate.detach() for gate in method.gates])


class TestThreshold:
    values = torch.tensor([3.0, 2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.5, -2.0, -3.0])

    def test_the_papers_operator_is_the_soft_threshold(self) -> None:
        assert soft_threshold(self.values, 1.0).tolist() == [2, 1, 0.5, 0, 0, 0, 0, -0.5, -1, -2]

    def test_the_released_operator_also_cuts_what_is_below_twice_the_threshold(self) -> None:
        assert shrink_then_cut(self.values, 1.0).tolist() == [2, 1, 0, 1, 0, 0, 0, 0, -1, -2]

    def test_all_vectors_are_thresholded_in_place(self) -> None:
        vectors = [nn.Parameter(torch.tensor([0.5, 2.0])), nn.Parameter(torch.tensor([-2.0, 1.25]))]
        same = list(vectors)
        apply_to_all(soft_threshold, vectors, 1.0)
        assert [vector.tolist() for vector in same] == [[0, 1], [-1, 0.25]]

    def test_the_l1_term_is_the_mean_over_all_entries(self) -> None:
        assert mean_magnitude([torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0])]).item() == 1.5

    def test_the_own_group_takes_its_tensors_out_of_the_others(self) -> None:
        first, second, third = (nn.Parameter(torch.zeros(1)) for _ in range(3))
        groups = [{"params": [first, second], "lr": 0.1}, {"params": [third], "lr": 0.2}]
        found = with_own_group(groups, [second, third], lr=0.3)
        assert [[*map(id, group["params"])] for group in found] == [[id(first)], [id(second), id(third)]]
        assert [group["lr"] for group in found] == [0.1, 0.3]


class TestStages:
    def test_without_a_schedule_the_threshold_is_constant(self) -> None:
        stages = Stages.of_run(10, None, thresholds(None, 3e-4, 7e-4, 7))
        assert {stages.threshold(step) for step in range(10)} == {3e-4}

    @pytest.mark.parametrize(
        ("spacing", "middle"),
        [("linear", 1.5), ("log_linear", math.log((math.e + math.e**2) / 2)), ("exp_linear", math.sqrt(2))],
    )
    def test_the_values_are_spaced_as_named(self, spacing: str, middle: float) -> None:
        assert thresholds(spacing, 1.0, 2.0, 3) == pytest.approx((1.0, middle, 2.0))

    def test_the_authors_schedule_has_seven_values(self) -> None:
        assert thresholds("linear", 0.0, 6e-4, 7) == pytest.approx((0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4))

    def test_the_first_stage_takes_five_fourteenths_and_the_others_equal_parts(self) -> None:
        stages = Stages.of_run(28, None, thresholds("linear", 0.0, 6e-4, 7))
        indices = [stages.index(step) for step in range(28)]
        assert indices == [0] * 10 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3 + [6] * 3
        assert [step for step in range(28) if stages.end_at(step)] == [9, 12, 15, 18, 21, 24, 27]

    @pytest.mark.parametrize("steps", [2, 3, 5, 60, 299])
    def test_a_run_of_any_length_ends_at_the_largest_threshold(self, steps: int) -> None:
        stages = Stages.of_run(steps, None, thresholds("linear", 0.0, 6e-4, 7))
        found = [stages.threshold(step) for step in range(steps)]
        assert found == sorted(found)
        assert found[-1] == 6e-4

    def test_a_first_stage_that_fills_the_run_is_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"method.first_stage=8 leaves no step of the run's 8"):
            sora(**STAGED | {"first_stage": 8})


class TestLayer:
    def test_output_by_hand(self) -> None:
        down, up = nn.Parameter(torch.tensor([[1.0, 2.0], [1.0, 0.0]])), nn.Parameter(torch.tensor([[1.0, 5.0]]))
        layer = GatedLinear(nn.Linear(2, 1, bias=False), down, up, nn.Parameter(torch.tensor([0.5, 0.0])), scaling=2.0)
        layer.base.weight.data = torch.tensor([[1.0, 1.0]])
        # W0 x = 7; A x = (11, 3), gated (5.5, 0), B gives 5.5, times 2
        assert layer(torch.tensor([3.0, 4.0])).item() == 7 + 11
        assert layer.delta_weight().tolist() == [[1.0, 2.0]]

    def test_pruning_keeps_the_components_whose_gate_is_not_zero_and_folds_it_into_b(self) -> None:
        down, up = torch.arange(6.0).view(3, 2), torch.arange(12.0).view(4, 3)
        small_down, small_up = pruned_factors(down, up, torch.tensor([2.0, 0.0, -1.0]))
        assert small_down.tolist() == [[0, 1], [4, 5]]
        assert small_up.tolist() == [[0, -2], [6, -5], [12, -8], [18, -11]]

    def test_a_layer_without_components_is_the_base_layer(self) -> None:
        base = nn.Linear(3, 2)
        down, up = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2, 4))
        layer = GatedLinear(base, down, up, nn.Parameter(torch.zeros(4)), scaling=2.0)
        before = base.weight.clone()
        assert torch.equal(layer.merged().weight, before)

    def test_a_zero_gate_leaves_its_components_without_gradient_but_keeps_its_own(self) -> None:
        down, up = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(2, 3))
        gate = nn.Parameter(torch.tensor([1.0, 0.0, 1.0]))
        GatedLinear(nn.Linear(4, 2), down, up, gate, scaling=1.0)(torch.randn(5, 4)).square().sum().backward()
        assert down.grad is not None
        assert up.grad is not None
        assert gate.grad is not None
        assert down.grad.any(dim=1).tolist() == [True, False, True]
        assert up.grad.any(dim=0).tolist() == [True, False, True]
        assert gate.grad[1] != 0


class TestMethod:
    def test_roberta_base_has_the_published_parameters_and_the_gates(self) -> None:
        assert count_on_roberta_base("sora", rank=8) == 1_327_104 + 576

    def test_gates_start_standard_normal(self) -> None:
        start = gates(sora(rank=32))
        assert abs(start.mean()) < 0.2
        assert 0.8 < start.std() < 1.2

    def test_gates_are_a_group_of_their_own_without_decay(self) -> None:
        method = sora(sparse_lr=0.5)
        *others, own = method.parameter_groups(0.1, 0.01)
        assert [id(gate) for gate in own["params"]] == [id(gate) for gate in method.gates]
        assert {name: own[name] for name in ("lr", "weight_decay", "eps")} == {
            "lr": 0.5,
            "weight_decay": 0.0,
            "eps": 1e-6,
        }
        assert {group["lr"] for group in others} == {0.1}

    def test_gates_learn_at_the_runs_rate_by_default(self) -> None:
        assert sora().parameter_groups(0.1, 0.01)[-1]["lr"] == 0.1

    def test_the_loss_contains_the_weighted_mean_of_the_gates_and_the_task_loss_does_not(self) -> None:
        method = sora(sparse_lambda=10.0)
        model = method.backbone.model.eval()
        loss, task_loss = method.compute_loss(model, batch())
        torch.testing.assert_close(task_loss, model(**batch()).loss)
        torch.testing.assert_close(loss - task_loss, 10 * gates(method).abs().mean())

    def test_without_penalties_gates_follow_plain_adam(self) -> None:
        method = sora(xi=0.0, sparse_lambda=0.0)
        optimizer = torch.optim.AdamW(method.parameter_groups(0.1, 0.01))
        values, first, second = gates(method), 0.0, 0.0
        for step in range(3):
            loss, _ = method.compute_loss(method.backbone.model.eval(), batch(step))
            loss.backward()
            gradient = torch.stack([gate.grad for gate in method.gates])
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            corrected, scale = first / (1 - 0.9 ** (step + 1)), (second / (1 - 0.999 ** (step + 1))).sqrt()
            values = values - 0.1 * corrected / (scale + 1e-6)
            optimizer.step()
            method.after_step(step)
            optimizer.zero_grad()
        torch.testing.assert_close(gates(method), values)

    @pytest.mark.parametrize(("prox", "operator"), [("official", shrink_then_cut), ("soft", soft_threshold)])
    def test_every_step_ends_with_the_chosen_operator(self, prox: str, operator: Any) -> None:
        method = sora(xi=0.25, prox=prox)
        before = gates(method)
        method.after_step(0)
        assert torch.equal(gates(method), operator(before, 0.25))

    def test_a_larger_threshold_leaves_fewer_gates(self) -> None:
        left = []
        for xi in (0.0, 0.01, 0.03, 0.1, 1.0):
            method = sora(xi=xi)
            train(method)
            left.append(int(gates(method).count_nonzero()))
        assert left == sorted(left, reverse=True)
        assert left[0] == gates(method).numel()
        assert 0 < left[2] < left[0]
        assert left[-1] == 0

    def test_a_zeroed_gate_may_come_back(self) -> None:
        method = sora(xi=1e-4, learning_rate=1e-2)
        for layer in method.layers.values():
            nn.init.normal_(layer.B, std=0.1)
            nn.init.zeros_(layer.g)
        train(method)
        assert gates(method).any()

    def test_the_report_counts_what_is_left_exactly_and_as_the_authors_do(self) -> None:
        method = sora(rank=4)
        assert (
            method.report()["parameters_left"]
            == method.report()["official_parameters_left"]
            == 4 * 2 * (4 * 128 + 2 * 192)
        )
        layers = list(method.layers)
        up = next(name for name in layers if "intermediate" in name)
        with torch.no_grad():
            method.layers[layers[0]].g[:2] = 0
            method.layers[up].g[0] = 0
        report = method.report()
        assert report["density"] == 45 / 48
        assert [report["ranks"][name] for name in layers] == [2, *(3 if name == up else 4 for name in layers[1:])]
        assert report["official_parameters"] - report["parameters_left"] == 2 * 128 + 192
        assert report["official_parameters"] - report["official_parameters_left"] == 3 * 128

    def test_the_density_is_noted_after_every_stage(self) -> None:
        method = sora(**STAGED)
        for gate in method.gates:
            nn.init.ones_(gate)
        for step in range(8):
            method.after_step(step)
        # 1 - 2 * 0.2 - 2 * 0.4 < 0: gone in the third of the four stages
        assert method.report()["stages"] == [
            {"xi": pytest.approx(xi), "density": density} for xi, density in [(0, 1), (0.2, 1), (0.4, 0), (0.6, 0)]
        ]

    def test_a_run_shorter_than_its_stages_tells_those_that_it_had(self) -> None:
        method = sora(**{**STAGED, "lambda_num": 7, "first_stage": None})
        method.stages = Stages.of_run(4, None, method.stages.thresholds)
        for step in range(4):
            method.after_step(step)
        held = [method.stages.threshold(step) for step in range(4)]
        assert [stage["xi"] for stage in method.report()["stages"]] == held
        assert held[-1] == method.stages.thresholds[-1]

    def test_a_resumed_run_goes_on_in_the_middle_of_the_stages(self) -> None:
        whole, half, resumed = sora(**STAGED), sora(**STAGED), sora(**STAGED)
        train(whole)
        state = train(half, until=5).state_dict()
        rest = loop(resumed)
        rest.load_state_dict(state)
        rest.run(StepClock("cpu"), lambda point: None)
        assert resumed.report() == whole.report()
        assert len(whole.report()["stages"]) == 4

    def test_pruned_and_merged_the_model_says_the_same(self) -> None:
        method = sora(xi=0.03)
        train(method).release()
        assert 0 < method.report()["density"] < 1
        expected = logits(method, batch())
        method.finish()
        torch.testing.assert_close(logits(method, batch()), expected, rtol=1e-4, atol=1e-5)
        assert not [name for name, _ in trainable(method.backbone.model) if "classifier" not in name]

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"sparse_lambda": -1.0}, "method.sparse_lambda=-1.0 must be at least 0"),
            ({"xi": -1e-4}, "method.xi=-0.0001 must be at least 0"),
            ({"prox": "sofft"}, "method.prox=sofft is unknown. Did you mean 'soft'?"),
            ({"sparse_lr": 0.0}, "method.sparse_lr=0.0 must be above 0"),
            ({"lambda_schedule": "cubic"}, "method.lambda_schedule=cubic is unknown. .*linear"),
            ({**STAGED, "lambda_num": 1}, "method.lambda_num=1 must be a whole number of at least 2"),
            ({**STAGED, "xi": 1.0}, "method.max_lambda=0.6 must be at least method.xi=1.0"),
            ({**STAGED, "lambda_schedule": "exp_linear"}, "method.xi=0.* has no logarithm"),
            ({**STAGED, "first_stage": -1}, "method.first_stage=-1 must be a whole number of at least 0"),
            ({"rank": 65}, r"method.rank=65 is above the size of bert.*query .64"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("sora", **settings).check(backbone().anatomy)
