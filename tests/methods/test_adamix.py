"""AdaMix: routes, two passes, the loss by its definition, the averaged adapter."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.backbone.anatomy import FAMILIES, Anatomy
from bench.errors import SettingsError
from bench.measure import parameters
from methods.adamix import AdaMix, answers
from methods.base import ADAPTER_FILE, trainable
from methods.parts.bottleneck import Bottleneck
from methods.parts.mixture import Mixture, symmetric_divergence
from tests.families import backbone as plain_backbone
from tests.families import classifier, inputs
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, method_named, roberta_base

CONSISTENCY = 0.7


def adamix(model: str = "classification", seed: int = 0, **changes: Any) -> AdaMix:
    """The method on a small model, its experts far from each other; the model's own dropout is off."""
    method = attached("adamix", model=model, **{"reduction": 8} | changes)
    assert isinstance(method, AdaMix)
    method.seed = seed
    torch.manual_seed(5)
    for name, parameter in method.backbone.model.named_parameters():
        if "adapter_" in name:
            nn.init.normal_(parameter, std=0.3)
    for module in method.backbone.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return method


def mixtures(method: AdaMix) -> list[Mixture]:
    return [module for module in method.backbone.model.modules() if isinstance(module, Mixture)]


def with_routes(method: AdaMix, routes: list[int], inputs: dict[str, Tensor]) -> Tensor:
    """Logits of one call in training mode in which every mixture serves by the given expert."""
    for mixture, route in zip(mixtures(method), routes, strict=True):
        mixture.routes = (route,)
    return method.backbone.model.train()(**{name: x for name, x in inputs.items() if name != "labels"}).logits


def loss_at(method: AdaMix, step: int, inputs: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    method.before_step(step)
    return method.compute_loss(method.backbone.model.train(), batch() if inputs is None else inputs)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2 summed over classes, the mean over rows."""
    return ((p.softmax(-1) - q.softmax(-1)) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1).mean() / 2


class TestMixture:
    @staticmethod
    def mixture() -> Mixture:
        torch.manual_seed(0)
        return Mixture([nn.Linear(3, 2) for _ in range(3)])

    def test_every_part_of_the_batch_is_served_by_its_expert(self) -> None:
        mixture, hidden = self.mixture().train(), torch.randn(4, 5, 3)
        mixture.routes = (2, 0)
        expected = torch.cat((mixture.experts[2](hidden[:2]), mixture.experts[0](hidden[2:])))
        assert torch.equal(mixture(hidden), expected)

    def test_evaluation_takes_the_mean_weights_of_the_moment(self) -> None:
        mixture, hidden = self.mixture().eval(), torch.randn(4, 3)
        for _ in range(2):
            weight = sum(expert.weight for expert in mixture.experts) / 3
            bias = sum(expert.bias for expert in mixture.experts) / 3
            torch.testing.assert_close(mixture(hidden), hidden @ weight.T + bias)
            nn.init.normal_(mixture.experts[1].weight)

    def test_its_inference_form_is_the_layer_of_the_mean_weights(self) -> None:
        mixture, hidden = self.mixture().eval(), torch.randn(4, 3)
        finished = mixture.finished()
        assert type(finished) is nn.Linear
        assert torch.equal(finished(hidden), mixture(hidden))


class TestDivergence:
    def test_its_value_by_hand(self) -> None:
        # p = (1/2, 1/2), q = (1/4, 3/4): KL(q || p) = log 2 - H(q), KL(p || q) = log(4 / sqrt 3) - log 2
        first, second = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
        entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
        expected = (math.log(2) - entropy + math.log(4 / 3**0.5) - math.log(2)) / 2
        assert symmetric_divergence(first, second).item() == pytest.approx(expected, rel=1e-5)

    def test_it_is_the_mean_over_rows(self) -> None:
        torch.manual_seed(0)
        first, second = torch.randn(6, 4), torch.randn(6, 4)
        torch.testing.assert_close(symmetric_divergence(first, second), divergence(first, second))

    def test_each_side_follows_the_other_as_it_stands(self) -> None:
        torch.manual_seed(0)
        first, second = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
        symmetric_divergence(first, second).backward()
        # The gradient of KL(target || softmax(x)) is softmax(x) - target, here over 6 rows and halved.
        expected = (first.softmax(-1) - second.softmax(-1)).detach() / 12
        torch.testing.assert_close(first.grad, expected)
        torch.testing.assert_close(second.grad, -expected)


class TestLoss:
    def test_it_is_the_first_passs_and_the_divergence_from_the_second(self) -> None:
        method = adamix(consistency_weight=CONSISTENCY)
        loss, task_loss = loss_at(method, 3)
        drawn = [mixture.routes for mixture in mixtures(method)]
        assert any(first != second for first, second in drawn)
        first, second = (with_routes(method, [routes[i] for routes in drawn], batch()) for i in (0, 1))
        torch.testing.assert_close(task_loss, nn.functional.cross_entropy(first, batch()["labels"]))
        torch.testing.assert_close(loss, task_loss + CONSISTENCY * divergence(first, second))
        assert loss > task_loss

    def test_gradients_are_those_of_two_calls_of_the_model(self) -> None:
        method = adamix(consistency_weight=CONSISTENCY)
        loss_at(method, 3)[0].backward()
        found = {name: parameter.grad for name, parameter in trainable(method.backbone.model)}
        drawn = [mixture.routes for mixture in mixtures(method)]
        method.backbone.model.zero_grad()
        first, second = (with_routes(method, [routes[i] for routes in drawn], batch()) for i in (0, 1))
        task_loss = nn.functional.cross_entropy(first, batch()["labels"])
        (task_loss + CONSISTENCY * symmetric_divergence(first, second)).backward()
        expected = {name: parameter.grad for name, parameter in trainable(method.backbone.model)}
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_with_one_expert_and_no_dropout_it_is_the_task_loss(self) -> None:
        loss, task_loss = loss_at(adamix(experts=1, consistency_weight=100.0), 0)
        assert loss.item() == pytest.approx(task_loss.item(), abs=1e-5)

    def test_without_a_divergence_there_is_one_pass(self) -> None:
        method = adamix(consistency_weight=0.0)
        loss, task_loss = loss_at(method, 0)
        assert loss is task_loss
        assert all(len(mixture.routes) == 1 for mixture in mixtures(method))

    def test_a_regression_makes_one_pass(self) -> None:
        method = adamix("choice")
        method.backbone.kind = "regression"
        loss, task_loss = loss_at(method, 0, {**batch(), "labels": torch.zeros(6)})
        assert loss is task_loss

    def test_two_choices_of_an_example_are_one_answer(self) -> None:
        method = adamix("choice", consistency_weight=CONSISTENCY)
        labels = torch.tensor([0, 1, 1])
        loss, task_loss = loss_at(method, 1, {"input_ids": batch()["input_ids"], "labels": labels})
        drawn = [mixture.routes for mixture in mixtures(method)]
        first, second = (with_routes(method, [routes[i] for routes in drawn], batch()).view(3, 2) for i in (0, 1))
        torch.testing.assert_close(loss - task_loss, CONSISTENCY * divergence(first, second), rtol=1e-4, atol=1e-6)

    def test_generated_text_is_compared_where_a_token_is_asked_for(self) -> None:
        logits, labels = torch.randn(2, 5, 7), torch.full((2, 4), -100)
        labels[0, 2], labels[1, 1], labels[1, 3] = 3, 4, 5
        # A token is predicted at the place before it; the first of the five places is ahead of the text.
        expected = torch.stack((logits[0, 2], logits[1, 1], logits[1, 3]))
        assert torch.equal(answers("generation", logits, labels), expected)

    def test_generated_text_weighs_the_divergence_a_hundred_times(self) -> None:
        method = adamix("generation")
        tokens = batch()["input_ids"]
        labels = tokens.masked_fill(torch.arange(9) < 4, -100)
        loss, task_loss = loss_at(method, 1, {"input_ids": tokens, "labels": labels})
        drawn = [mixture.routes for mixture in mixtures(method)]
        asked = (
            with_routes(method, [routes[i] for routes in drawn], {"input_ids": tokens})[:, 3:8].flatten(0, 1)
            for i in (0, 1)
        )
        torch.testing.assert_close(loss - task_loss, 100 * divergence(*asked), rtol=1e-3, atol=1e-4)


class TestRoutes:
    def test_a_step_draws_the_same_again_and_another_step_others(self) -> None:
        method = adamix(experts=50)

        def routes(step: int, seed: int = 0) -> list[tuple[int, ...]]:
            method.seed = seed
            torch.manual_seed(step)
            loss_at(method, step)
            return [mixture.routes for mixture in mixtures(method)]

        assert routes(2) == routes(2)
        assert routes(2) != routes(3)
        assert routes(2) != routes(2, seed=1)
        assert len(set(sum(routes(2), ()))) > 1, "mixtures and passes draw for themselves"

    def test_parts_of_a_batch_take_the_routes_of_the_whole(self) -> None:
        method = adamix()
        whole, _ = loss_at(method, 3)
        model = method.backbone.model.train()
        parts = [{name: tensor[rows] for name, tensor in batch().items()} for rows in (slice(2), slice(2, 6))]
        (first, _), (second, _) = (method.compute_loss(model, part) for part in parts)
        torch.testing.assert_close((2 * first + 4 * second) / 6, whole)

    def test_only_experts_that_were_drawn_get_a_gradient_or_move(self) -> None:
        method = adamix()
        optimizer = torch.optim.AdamW(method.parameter_groups(1e-2, 0.1))
        for step in range(4):
            before = {name: tensor.clone() for name, tensor in method.backbone.model.named_parameters()}
            loss_at(method, step)[0].backward()
            optimizer.step()
            for index, mixture in enumerate(mixtures(method)):
                for number, expert in enumerate(mixture.experts):
                    drawn = number in mixture.routes
                    name = f"bert.encoder.layer.{index}.adapter_ffn.down.experts.{number}.weight"
                    assert (expert.weight.grad is not None) == drawn
                    assert torch.equal(expert.weight, before[name]) == (not drawn)
            optimizer.zero_grad()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_recomputed_activations_take_the_same_routes(self, family: str) -> None:
        def gradients(checkpointing: bool) -> dict[str, Tensor | None]:
            method = method_named("adamix", reduction=4, consistency_weight=1.0)
            assert isinstance(method, AdaMix)
            base = plain_backbone(classifier(family))
            torch.manual_seed(1)
            method.attach(base, 10)
            model = base.model.train()
            if checkpointing:
                model.gradient_checkpointing_enable()
            loss_at(method, 1, {**inputs(family), "labels": torch.tensor([0, 1, 0, 1])})[0].backward()
            return {name: parameter.grad for name, parameter in trainable(model)}

        torch.testing.assert_close(gradients(True), gradients(False))


class TestAveragedAdapter:
    def test_evaluation_runs_one_adapter_of_mean_weights_between_dense_and_dropout(self) -> None:
        method = adamix()
        expected = copy.deepcopy(backbone().model)
        expected.classifier.load_state_dict(method.backbone.model.classifier.state_dict())
        for index, block in enumerate(expected.bert.encoder.layer):
            adapter = method.backbone.model.bert.encoder.layer[index].adapter_ffn
            weight = torch.stack([expert.weight for expert in adapter.down.experts]).mean(0)
            bias = torch.stack([expert.bias for expert in adapter.down.experts]).mean(0)

            def add(_: Any, __: Any, h: Tensor, d: Tensor = weight, a: Tensor = bias, up: Any = adapter.up) -> Tensor:
                return h + nn.functional.gelu(h @ d.T + a) @ up.weight.T + up.bias

            block.output.dense.register_forward_hook(add)
        with torch.no_grad():
            found = expected.eval()(input_ids=batch()["input_ids"]).logits
        torch.testing.assert_close(logits(method, batch()), found)

    def test_the_second_layer_is_one_tensor_unless_it_is_a_mixture_too(self) -> None:
        shared, apart = adamix(), adamix(share_up=False, share_down=True)
        assert {type(module.up) for module in shared.backbone.model.modules() if isinstance(module, Bottleneck)} == {
            nn.Linear
        }
        kinds = {
            (type(module.down), type(module.up))
            for module in apart.backbone.model.modules()
            if isinstance(module, Bottleneck)
        }
        assert kinds == {(nn.Linear, Mixture)}

    def test_experts_start_apart_from_each_other(self) -> None:
        method = attached("adamix", reduction=1)
        for mixture in mixtures(method):
            first, second, *_ = mixture.experts
            assert not torch.equal(first.weight, second.weight)
            assert first.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert not first.bias.any()

    def test_finishing_leaves_plain_layers(self) -> None:
        method = adamix(share_up=False)
        expected = logits(method, batch())
        method.finish()
        assert not mixtures(method)
        assert torch.equal(logits(method, batch()), expected)

    def test_a_saved_adapter_is_the_averaged_one(self, tmp_path: Path) -> None:
        method, again = adamix(), adamix(seed=1)
        method.save(tmp_path)
        assert mixtures(method), "saving leaves the trained form as it is"
        stored = {n: t for n, t in load_file(tmp_path / ADAPTER_FILE).items() if "classifier" not in n}
        assert sum(tensor.numel() for tensor in stored.values()) == 2 * (2 * 64 * 8 + 8 + 64)
        again.load(tmp_path)
        assert torch.equal(logits(again, batch()), logits(method, batch()))


class TestCounts:
    @pytest.mark.parametrize(("reduction", "trained", "served"), [(48, 747_264, 304_320), (16, 2_223_360, 894_528)])
    def test_roberta_base_has_the_published_numbers(self, reduction: int, trained: int, served: int) -> None:
        assert count_on_roberta_base("adamix", reduction=reduction) == trained
        method, base = method_named("adamix", reduction=reduction), roberta_base()
        method.attach(base, 10)
        method.finish()
        assert parameters.count(base.model, base.anatomy).trainable == served


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"experts": 0}, r"method\.experts=0 must be a whole number of at least 1"),
        ({"experts": 2.5}, r"method\.experts=2\.5 must be a whole number of at least 1"),
        ({"consistency_weight": -1}, r"method\.consistency_weight=-1 must be at least 0"),
        ({"reduction": 33}, r"method\.reduction=33 is above the model's width \(32\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        method_named("adamix", **settings).check(Anatomy(classifier("bert"), "bert"))
