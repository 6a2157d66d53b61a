"""DyLoRA: what a rank computes and trains, how ranks are drawn, and the rank that is served."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import SettingsError
from bench.measure.throughput import StepClock
from methods.base import trainable
from methods.dylora import DyLora
from methods.parts.nested_linear import NestedLinear
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, loop, method_named, train

RANK, ALPHA = 4, 16
every_rank = pytest.mark.parametrize("rank", range(1, RANK + 1))


def nested(base: nn.Module | None = None, frozen: bool = True) -> NestedLinear:
    """A layer from 5 to 3 features far from its start, always the same but for `base`."""
    torch.manual_seed(0)
    layer = NestedLinear(nn.Linear(5, 3) if base is None else base, RANK, ALPHA, frozen)
    nn.init.normal_(layer.B)
    return layer


def dylora(**changes: Any) -> DyLora:
    method = attached("dylora", **{"rank": RANK} | changes)
    assert isinstance(method, DyLora)
    return method


def perturbed(method: DyLora) -> DyLora:
    torch.manual_seed(2)
    for layer in method.layers.values():
        nn.init.normal_(layer.B, std=0.3)
    return method


def as_the_authors(layer: NestedLinear, hidden: Tensor, rank: int) -> Tensor:
    """The authors' forward pass: both factors cut off and scaled by sqrt(R / b), then alpha / R."""

    def dynamic(columns: Tensor) -> Tensor:
        kept = columns[:, :rank]
        if layer.frozen:
            kept = torch.cat([columns[:, : rank - 1].detach(), columns[:, rank - 1 : rank]], dim=-1)
        return kept * math.sqrt(RANK / rank)

    return layer.base(hidden) + hidden @ dynamic(layer.A.T) @ dynamic(layer.B).T * (ALPHA / RANK)


class TestLayer:
    @every_rank
    def test_a_rank_is_the_plain_low_rank_change_of_its_first_components(self, rank: int) -> None:
        layer, hidden = nested(), torch.randn(7, 5)
        plain = layer.base(hidden) + ALPHA / rank * hidden @ layer.A[:rank].T @ layer.B[:, :rank].T
        layer.training_rank = rank
        torch.testing.assert_close(layer.train()(hidden), plain, rtol=1e-5, atol=1e-5)
        layer.training_rank, layer.serving_rank = 1, rank
        torch.testing.assert_close(layer.eval()(hidden), plain, rtol=1e-5, atol=1e-5)

    @every_rank
    @pytest.mark.parametrize("frozen", [True, False])
    def test_outputs_and_gradients_are_those_of_the_authors_scaling(self, rank: int, frozen: bool) -> None:
        layer, hidden = nested(frozen=frozen), torch.randn(7, 5)
        layer.training_rank = rank
        found, expected = layer(hidden), as_the_authors(layer, hidden, rank)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        factors = [layer.A, layer.B]
        gradients = [torch.autograd.grad(output.square().mean(), factors) for output in (found, expected)]
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)

    @every_rank
    @pytest.mark.parametrize("frozen", [True, False])
    def test_the_gradient_reaches_the_last_component_if_frozen_and_else_all_up_to_it(
        self, rank: int, frozen: bool
    ) -> None:
        layer = nested(frozen=frozen)
        layer.training_rank = rank
        layer(torch.randn(7, 5)).square().sum().backward()
        assert layer.A.grad is not None
        assert layer.B.grad is not None
        reached = [component == rank or (component < rank and not frozen) for component in range(1, RANK + 1)]
        assert layer.A.grad.any(dim=1).tolist() == reached
        assert layer.B.grad.any(dim=0).tolist() == reached

    @every_rank
    def test_at_the_start_every_rank_is_the_base_layer(self, rank: int) -> None:
        layer, hidden = NestedLinear(nn.Linear(5, 3), RANK, ALPHA, frozen=True), torch.randn(7, 5)
        layer.serving_rank = rank
        assert torch.equal(layer.eval()(hidden), layer.base(hidden))

    @every_rank
    def test_merging_at_a_rank_keeps_its_output(self, rank: int) -> None:
        layer, hidden = nested(nn.Linear(5, 3)).eval(), torch.randn(7, 5)
        layer.serving_rank = rank
        expected = layer(hidden)
        torch.testing.assert_close(layer.merged()(hidden), expected, rtol=1e-5, atol=1e-5)


class TestRanks:
    def test_all_layers_have_the_steps_rank(self) -> None:
        method = dylora()
        for step in range(10):
            method.before_step(step)
            assert {layer.training_rank for layer in method.layers.values()} == {method.rank_of_step(step)}

    def test_ranks_are_drawn_evenly(self) -> None:
        method = dylora()
        drawn = torch.tensor([method.rank_of_step(step) for step in range(10_000)])
        counts = drawn.bincount(minlength=RANK + 1)
        assert counts[0] == 0
        # 2500 each, with a standard deviation of sqrt(10000 * 1/4 * 3/4) = 43
        assert (counts[1:] - 2500).abs().max() < 4 * 43

    def test_a_rank_is_a_function_of_seed_and_step_however_often_it_is_asked(self) -> None:
        first, second = dylora(), dylora()
        for _ in range(3):
            first.before_step(0)
        assert [first.rank_of_step(step) for step in range(50)] == [second.rank_of_step(step) for step in range(50)]
        second.seed = 1
        assert [first.rank_of_step(step) for step in range(50)] != [second.rank_of_step(step) for step in range(50)]

    def test_evaluation_runs_at_the_largest_rank_whatever_was_drawn(self) -> None:
        method = perturbed(dylora())
        expected = logits(method, batch())
        step = next(step for step in range(50) if method.rank_of_step(step) < RANK)
        method.before_step(step)
        assert torch.equal(logits(method, batch()), expected)
        assert {layer.training_rank for layer in method.layers.values()} == {method.rank_of_step(step)}


class TestForms:
    def test_every_other_rank_is_a_form(self) -> None:
        assert dylora().forms == ("rank=1", "rank=2", "rank=3")
        assert dylora(serve_rank=2).forms == ("rank=1", "rank=3", "rank=4")

    def test_a_form_sets_its_rank_everywhere_and_puts_the_served_one_back(self) -> None:
        method = perturbed(dylora())
        expected = logits(method, batch())
        found = []
        for name in method.forms:
            with method.form(name):
                assert {f"rank={layer.serving_rank}" for layer in method.layers.values()} == {name}
                found.append(logits(method, batch()))
            assert torch.equal(logits(method, batch()), expected)
        assert not any(torch.equal(form, expected) for form in found)

    def test_an_error_inside_a_form_puts_the_served_rank_back(self) -> None:
        method = dylora()
        with pytest.raises(RuntimeError), method.form("rank=2"):
            raise RuntimeError
        assert {layer.serving_rank for layer in method.layers.values()} == {RANK}

    @pytest.mark.parametrize("name", ["rank=0", "rank=5", "pruned"])
    def test_a_form_that_the_model_has_not_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} is no form of a model of rank 4"), dylora().form(name):
            pass

    def test_the_served_rank_is_scored_and_merged(self) -> None:
        method, other = perturbed(dylora(serve_rank=2)), perturbed(dylora())
        with other.form("rank=2"):
            expected = logits(other, batch())
        assert torch.equal(logits(method, batch()), expected)
        method.finish()
        torch.testing.assert_close(logits(method, batch()), expected, rtol=1e-4, atol=1e-5)
        assert all(not isinstance(module, NestedLinear) for module in method.backbone.model.modules())


class TestTraining:
    def test_roberta_base_has_the_published_number_of_parameters(self) -> None:
        assert count_on_roberta_base("dylora", rank=8) == 294_912

    @pytest.mark.parametrize("frozen", [True, False])
    def test_momentum_and_decay_move_what_has_no_gradient_unless_masked(self, frozen: bool) -> None:
        def moved_without_gradient(mask_optimizer: bool) -> bool:
            method = perturbed(dylora(frozen=frozen, mask_optimizer=mask_optimizer))
            optimizer = torch.optim.AdamW(method.parameter_groups(0.1, 0.5))
            layer = next(iter(method.layers.values()))
            found = False
            for step in range(6):
                before = layer.A.detach().clone()
                method.before_step(step)
                loss, _ = method.compute_loss(method.backbone.model.train(), batch(step))
                loss.backward()
                assert layer.A.grad is not None
                idle = ~layer.A.grad.any(dim=1)
                method.after_backward(step)
                optimizer.step()
                method.after_step(step)
                optimizer.zero_grad()
                changed = (layer.A.detach() != before).any(dim=1)
                assert changed[~idle].all()
                found |= bool(changed[idle].any())
            return found

        assert moved_without_gradient(mask_optimizer=False)
        assert not moved_without_gradient(mask_optimizer=True)

    @pytest.mark.parametrize("changes", [{"mask_optimizer": True}, {"frozen": False}], ids=["masked", "not frozen"])
    def test_a_resumed_run_draws_the_same_ranks(self, changes: dict[str, Any]) -> None:
        whole, half, resumed = (dylora(**changes) for _ in range(3))
        train(whole)
        state = train(half, until=3).state_dict()
        rest = loop(resumed)
        rest.load_state_dict(state)
        rest.run(StepClock("cpu"), lambda point: None)
        found = dict(trainable(resumed.backbone.model))
        assert all(torch.equal(found[name], tensor) for name, tensor in trainable(whole.backbone.model))

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"serve_rank": 0}, "method.serve_rank=0 must be a whole number of at least 1"),
            ({"serve_rank": 9}, "method.serve_rank=9 must be at most method.rank=8"),
            ({"rank": 65}, r"method.rank=65 is above the size of bert.*query .64"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("dylora", **settings).check(backbone().anatomy)
