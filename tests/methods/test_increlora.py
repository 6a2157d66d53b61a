"""IncreLoRA: growth events, the gradient of the change, importance and the reserve, against hand-worked numbers."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import SettingsError
from bench.measure import parameters
from bench.measure.throughput import StepClock
from methods.increlora import IncreLora, layers_per_event
from methods.parts.growing import by_structure, joined, largest, mean_orthogonality
from methods.parts.growing_method import GrowthSteps
from methods.parts.growing_triplets import LayerImportance, TripletLinear, sensitivity
from tests.methods.conftest import (
    attached,
    batch,
    count_on_roberta_base,
    logits,
    loop,
    method_named,
    roberta_base,
    train,
)

STEPS = 24
LAYERS = 12
SLOW_GROWTH = {"rank": 2, "incre_rank_num": 1, "top_h": 4, "init_warmup": 3, "incre_interval": 3}
"""From 12 ranks to 24, four at a time, after steps 6, 9 and 12."""


def increlora(**changes: Any) -> Any:
    return attached("increlora", STEPS, **{**SLOW_GROWTH, **changes})


trained = functools.partial(train, steps=STEPS)


def backward(method: IncreLora, *weights: float) -> None:
    """Gradients of a step whose batch comes in parts of equal size that count as much as `weights` say."""
    method.before_step(0)
    whole, size = batch(), 6 // len(weights)
    for number, weight in enumerate(weights):
        part = {name: tensor[number * size : (number + 1) * size] for name, tensor in whole.items()}
        loss, _ = method.compute_loss(method.backbone.model.eval(), part)
        (loss * weight).backward()


def triplet_layer(base: nn.Module | None = None, alpha: float = 16, advance_learning: bool = True) -> TripletLinear:
    base = nn.Linear(2, 2, bias=False) if base is None else base
    return TripletLinear(base, 1, 1, alpha, dropout=0.0, advance_learning=advance_learning)


def extend(layer: TripletLinear) -> list[nn.Parameter]:
    return layer.extend(method_named("increlora").random(0))


class TestSchedule:
    def test_growth_falls_on_the_interval_after_the_warm_up(self) -> None:
        steps = GrowthSteps(total_steps=30, init_warmup=8, incre_interval=4)
        assert [step for step in range(30) if steps.grows_at(step)] == [12, 16, 20, 24, 28]

    def test_steps_are_shares_of_the_run_by_default(self) -> None:
        assert GrowthSteps.of_run(300, None, None) == GrowthSteps(300, 6, 6)
        assert GrowthSteps.of_run(8, None, None) == GrowthSteps(8, 1, 1)
        assert GrowthSteps.of_run(300, 20, None) == GrowthSteps(300, 20, 6)
        assert GrowthSteps.of_run(300, None, 10) == GrowthSteps(300, 10, 10)

    @pytest.mark.parametrize(("warmup", "interval"), [(99, None), (None, 60), (70, 70)])
    def test_a_schedule_without_a_step_to_grow_at_is_refused(self, warmup: int | None, interval: int | None) -> None:
        with pytest.raises(SettingsError, match=r"leave no step to grow at in a run of 100 steps"):
            GrowthSteps.of_run(100, warmup, interval)

    def test_enough_layers_grow_at_a_time_for_growth_to_end_after_a_good_third(self) -> None:
        steps = GrowthSteps.of_run(300, None, None)
        # 17 events, 12, 18, ..., 108, until 36 % of the run; 126 growths of 4 ranks take 72 layers from 1 to 8
        assert layers_per_event(steps, layers=72, growths=126) == 8
        assert layers_per_event(steps, layers=72, growths=72) == 5

    def test_no_more_layers_grow_at_a_time_than_there_are(self) -> None:
        assert layers_per_event(GrowthSteps.of_run(8, None, None), layers=12, growths=21) == 12


class TestLayer:
    def test_output_by_hand_before_and_after_growth(self) -> None:
        layer = triplet_layer()
        extend(layer)
        for name, value in {
            "base.weight": [[1.0, 0.0], [0.0, 1.0]],
            **{"blocks.0.A": [[1.0, 2.0]], "blocks.0.E": [[0.5]], "blocks.0.B": [[1.0], [-1.0]]},
            **{"reserve.A": [[1.0, 0.0]], "reserve.B": [[0.0], [1.0]]},
        }.items():
            layer.get_parameter(name).data = torch.tensor(value)
        hidden = torch.tensor([3.0, 4.0])
        # A x = 11, times E is 5.5; the reserve adds 3e-5 to the second output; the divisor is the rank that counts.
        expected = [3 + 5.5 * 16 / 1.00001, 4 + (-5.5 + 3e-5) * 16 / 1.00001]
        torch.testing.assert_close(layer(hidden), torch.tensor(expected))
        extend(layer)
        layer.retire_reserve()
        expected = [3 + 5.5 * 16 / 2.00001, 4 + (-5.5 + 3e-5) * 16 / 2.00001]
        torch.testing.assert_close(layer(hidden), torch.tensor(expected))

    def test_growth_makes_the_reserve_count_and_puts_a_new_one_behind_it(self) -> None:
        layer = triplet_layer()
        first = extend(layer)
        reserve = layer.reserve
        assert reserve is not None
        assert [id(tensor) for tensor in first] == [id(reserve.A), id(reserve.B)]
        assert (layer.rank, reserve.E.requires_grad, reserve.E.item()) == (1, False, pytest.approx(1e-5))
        second = extend(layer)
        assert layer.rank == 2
        assert layer.blocks[-1] is reserve
        assert layer.reserve is not None
        assert [id(tensor) for tensor in second] == [id(reserve.E), id(layer.reserve.A), id(layer.reserve.B)]
        assert reserve.E.requires_grad

    def test_without_advance_learning_a_reserve_trains_from_its_growth_on(self) -> None:
        layer = triplet_layer(advance_learning=False)
        assert extend(layer) == []
        reserve = layer.reserve
        assert reserve is not None
        assert not any(tensor.requires_grad for tensor in reserve.parameters())
        assert reserve.E.item() == 0
        assert {id(tensor) for tensor in extend(layer)} == {id(tensor) for tensor in reserve.parameters()}
        assert all(tensor.requires_grad for tensor in reserve.parameters())

    def test_the_gradient_of_the_change_is_collected_over_backward_passes(self) -> None:
        layer = triplet_layer(nn.Linear(4, 3))
        extend(layer)
        nn.init.normal_(layer.blocks[0].get_parameter("E"))
        layer.watched = True
        expected = torch.zeros(3, 4)
        for _ in range(2):
            hidden, weights = torch.randn(2, 5, 4), torch.randn(2, 5, 3)
            delta = layer.delta_weight().detach().requires_grad_()
            dense = (layer.base(hidden) + hidden @ delta.T).tanh() * weights
            expected += torch.autograd.grad(dense.sum(), delta)[0]
            (layer(hidden).tanh() * weights).sum().backward()
        assert layer.delta_gradient is not None
        torch.testing.assert_close(layer.delta_gradient, expected)

    def test_layers_of_one_structure_are_put_together_without_a_change_of_their_output(self) -> None:
        layers = [triplet_layer(nn.Linear(4, width)) for width in (3, 3, 5, 3)]
        extend(layers[3])
        for layer in layers:
            nn.init.normal_(layer.blocks[0].get_parameter("E"))
        hidden = torch.randn(2, 4)
        alone = [layer(hidden) for layer in layers]
        assert [len(group) for group in by_structure(layers)] == [2, 1, 1]
        with joined(layers):
            together = [layer(hidden) for layer in layers]
        torch.testing.assert_close(together, alone)
        assert all(layer.given is None for layer in layers)

    def test_orthogonality_is_the_mean_over_all_layers_of_all_blocks_together(self) -> None:
        layers = [triplet_layer(nn.Linear(4, 3)) for _ in range(2)]
        extend(layers[0])
        norms = []
        for layer in layers:
            A = torch.cat([part.get_parameter("A") for part in layer.parts])
            B = torch.cat([part.get_parameter("B") for part in layer.parts], 1)
            norms += [(gram - torch.eye(len(gram))).pow(2).sum().sqrt() for gram in (A @ A.T, B.T @ B)]
        with joined(layers) as groups:
            torch.testing.assert_close(mean_orthogonality(groups), torch.stack(norms).mean())


class TestImportance:
    def test_sensitivity_by_hand(self) -> None:
        delta, gradient = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[2.0, 1.0], [-1.0, 5.0]])
        torch.testing.assert_close(sensitivity(delta, gradient), torch.tensor(3.5))  # (2 + 2 + 3 + 0) / sqrt(4)

    def test_scores_of_two_steps_by_hand(self) -> None:
        layer = triplet_layer(alpha=1.00001)  # s = 1
        for name, value in {"A": [[1.0, -2.0]], "E": [[1.0]], "B": [[1.0], [0.0]]}.items():
            layer.blocks[0].get_parameter(name).data = torch.tensor(value)
        importance = LayerImportance([layer], 0.85, 0.85)
        for gradient, sensitivity_now, uncertainty_now in (
            ([[4.0, 0.0], [9.0, 9.0]], 0.3, 0.255),  # I = 4 / 2; 0.15 * 2; 0.15 * |2 - 0.3|
            ([[0.0, 1.0], [0.0, 0.0]], 0.405, 0.306),  # I = 2 / 2; 0.85 * 0.3 + 0.15; 0.85 * 0.255 + 0.15 * |1 - 0.405|
        ):
            loss = torch.ones((), requires_grad=True)
            importance.watch(loss)
            (1.0 * loss).backward()
            layer.delta_gradient = torch.tensor(gradient)
            importance.update()
            importance.forget()
            torch.testing.assert_close(importance.scores(), torch.tensor([sensitivity_now * uncertainty_now]))

    @pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.5), (512.0, 512.0), (1 / 3, 1 / 3, 1 / 3)])
    def test_scores_depend_neither_on_micro_batches_nor_on_a_scaled_loss(self, weights: tuple[float, ...]) -> None:
        method, whole = increlora(), increlora()
        for one, parts in ((method, weights), (whole, (1.0,))):
            for layer in one.layers.values():
                nn.init.constant_(layer.blocks[0].E, 0.1)
            backward(one, *parts)
            one.importance.update()
        torch.testing.assert_close(method.importance.scores(), whole.importance.scores())

    def test_the_largest_scores_and_all_that_tie_with_them_are_chosen(self) -> None:
        scores = torch.tensor([3.0, 1.0, 2.0, 5.0, 2.0])
        assert largest(scores, 2) == [0, 3]
        assert largest(scores, 3) == [0, 2, 3, 4]


class TestMethod:
    def test_roberta_base_has_the_worked_numbers_of_parameters(self) -> None:
        assert count_on_roberta_base("increlora", initial_rank=1) == 165_960
        method, base = method_named("increlora", rank=2), roberta_base()
        method.attach(base, 100)
        assert isinstance(method, IncreLora)
        for layer in method.layers.values():
            extend(layer)
            extend(layer)
        counting = sum(tensor.numel() for layer in method.layers.values() for tensor in layer.blocks.parameters())
        assert counting == 331_920
        assert parameters.count(base.model, base.anatomy).trainable == 331_920 + 165_888

    def test_the_reserve_hardly_changes_the_output(self) -> None:
        method = increlora()
        before = logits(method, batch())
        trained(method, until=1)  # the warm-up's first learning rate is 0
        assert all(layer.reserve is not None for layer in method.layers.values())
        assert 0 < float((logits(method, batch()) - before).abs().max()) < 1e-3

    def test_an_event_grows_the_layers_with_the_largest_scores(self) -> None:
        method = increlora()
        training = trained(method, until=6)
        scores = {}
        grow = method.grow

        def noted(step: int, positions: Any) -> None:
            scores[step] = method.importance.scores().tolist()
            grow(step, positions)

        method.grow = noted
        training.run(StepClock("cpu"), lambda point: None, 7)
        assert method.events[-1]["step"] == 6
        best = sorted(range(LAYERS), key=lambda position: scores[6][position])[-4:]
        assert method.events[-1]["layers"] == sorted(best)
        ranks = [layer.rank for layer in method.layers.values()]
        assert ranks == [2 if position in best else 1 for position in range(LAYERS)]

    def test_the_budget_is_met_exactly_where_its_steps_divide_it(self) -> None:
        method, totals = increlora(), []
        training = loop(method, STEPS)
        training.run(StepClock("cpu"), lambda point: None, on_step=lambda: totals.append(method.total_rank))
        assert totals == [12] * 6 + [16] * 3 + [20] * 3 + [24] * 12
        assert method.report()["total_rank"] == sum(method.report()["ranks"].values()) == 24
        assert method.report()["last_growth_step"] == 12

    def test_growth_ends_where_the_last_event_goes_beyond_the_budget(self) -> None:
        method = increlora(incre_rank_num=2, top_h=5)
        trained(method)
        # 12 + 5 * 2 = 22, then the two layers that 24 - 22 allows, with two ranks each
        assert [len(event["layers"]) for event in method.events] == [12, 5, 2]
        assert method.total_rank == 26
        assert not any(layer.watched or layer.reserve.E.any() for layer in method.layers.values())

    def test_every_event_adds_one_optimizer_group_with_a_warm_up_of_its_own(self) -> None:
        method = increlora()
        training = loop(method, STEPS)
        initial = len(method.optimizer.param_groups)
        rates: list[list[float]] = []
        training.run(
            StepClock("cpu"),
            lambda point: None,
            on_step=lambda: rates.append([group["lr"] for group in method.optimizer.param_groups]),
        )
        groups = method.optimizer.param_groups[initial:]
        assert [group["begins"] for group in groups] == [1, 7, 10, 13]
        assert [len(group["params"]) for group in groups] == [2 * 12, 3 * 4, 3 * 4, 3 * 4]
        second = [step[initial + 1] for step in rates[7:]]
        warmup, peak = 2, method.learning_rate  # 6 % of 24 steps
        falling = [peak * (1 - passed / (17 - warmup)) for passed in range(17 - warmup)]
        assert second == pytest.approx([0, peak / 2, *falling])

    def test_new_tensors_move_from_the_second_step_after_their_event_on(self) -> None:
        method = increlora()
        training = trained(method, until=7)
        grown = method.growing_layers[method.events[-1]["layers"][0]]
        start = grown.reserve.A.detach().clone()
        training.run(StepClock("cpu"), lambda point: None, 8)
        assert torch.equal(grown.reserve.A, start), "the first rate of the group's warm-up is 0"
        training.run(StepClock("cpu"), lambda point: None, 9)
        assert not torch.equal(grown.reserve.A, start)

    def test_a_reserve_is_no_part_of_the_trained_model_where_growth_never_ends(self, tmp_path: Path) -> None:
        method = increlora(top_h=1)
        trained(method, until=STEPS - 1)
        assert all(layer.reserve.E.item() == pytest.approx(1e-5) for layer in method.layers.values())
        method = increlora(top_h=1)
        trained(method)
        assert method.total_rank < method.budget
        assert not any(layer.reserve.E.any() for layer in method.layers.values())
        method.save(tmp_path)
        assert not any(".reserve." in name for name in load_file(tmp_path / "adapter.safetensors"))

    @pytest.mark.parametrize("until", [1, 8, STEPS], ids=["reserve", "growing", "grown"])
    def test_an_adapter_saved_at_any_time_has_its_ranks_and_its_reserve(self, until: int, tmp_path: Path) -> None:
        method, again = increlora(), increlora()
        trained(method, until)
        method.save(tmp_path)
        again.load(tmp_path)
        assert again.report()["ranks"] == method.report()["ranks"]
        assert torch.equal(logits(again, batch()), logits(method, batch()))

    @pytest.mark.parametrize("advance_learning", [True, False])
    @pytest.mark.parametrize("stop", [1, 8, 20], ids=["reserve", "growing", "grown"])
    def test_a_resumed_run_equals_an_uninterrupted_one(self, stop: int, advance_learning: bool) -> None:
        whole, half, resumed = (increlora(advance_learning=advance_learning) for _ in range(3))
        trained(whole)
        state = _stored(trained(half, stop).state_dict())
        rest = loop(resumed, STEPS)
        rest.load_state_dict(state)
        rest.run(StepClock("cpu"), lambda point: None)
        expected = dict(whole.backbone.model.named_parameters())
        found = dict(resumed.backbone.model.named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        assert resumed.events == whole.events

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"initial_rank": 0}, "method.initial_rank=0 must be a whole number of at least 1"),
            ({"rank": 2, "initial_rank": 3}, "method.rank=2 must be a whole number of at least method.initial_rank=3"),
            ({"rank": 65}, "method.rank=65 is above the size of bert.*query .64"),
            ({"incre_rank_num": 0}, "method.incre_rank_num=0 must be a whole number of at least 1"),
            ({"top_h": 0}, "method.top_h=0 must be a whole number of at least 1"),
            ({"incre_interval": 0}, "method.incre_interval=0 must be a whole number of at least 1"),
            ({"init_warmup": -1}, "method.init_warmup=-1 must be a whole number of at least 0"),
            ({"beta1": 1.0}, "method.beta1=1.0 must be above 0 and below 1"),
            ({"orthogonality_weight": -0.1}, "method.orthogonality_weight=-0.1 must be at least 0"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            attached("increlora", **settings)


def _stored(state: dict[str, Any]) -> dict[str, Tensor]:
    """What comes back from a checkpoint's file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    stored: dict[str, Tensor] = torch.load(file, weights_only=True)
    return stored
