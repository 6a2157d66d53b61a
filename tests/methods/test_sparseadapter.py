"""SparseAdapter: scores and masks by hand, what is masked has no part, the dense host as the limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.backbone.anatomy import Anatomy
from bench.errors import SettingsError
from bench.training.loop import store_frozen_in
from methods.adapter import VARIANTS
from methods.base import Method, trainable
from methods.parts.bottleneck import Bottleneck, dense_pair
from methods.parts.pruning import (
    MaskedLinear,
    erdos_renyi_densities,
    erdos_renyi_masks,
    global_masks,
    gradient_flows,
    hessian_gradient_products,
    local_masks,
    magnitudes,
    random_scores,
    scoring,
    sensitivities,
    summed_gradients,
    synaptic_flows,
)
from methods.sparseadapter import PRUNERS, SparseAdapter
from tests.families import classifier
from tests.methods.conftest import attached, batch, count_on_roberta_base, logits, method_named, padded_batch

every_pruner = pytest.mark.parametrize("pruner", PRUNERS)


def draw(count: int) -> Iterator[Mapping[str, Tensor]]:
    """As many batches of six as hold `count` examples, always the same ones."""
    yield from (batch(step) for step in range(-(-count // 6)))


def unused(count: int) -> Iterator[Mapping[str, Tensor]]:
    raise AssertionError("examples were drawn")


def prepared(**changes: Any) -> SparseAdapter:
    """The method on a small BERT, with its masks."""
    method = attached("sparseadapter", **{"reduction": 4} | changes)
    assert isinstance(method, SparseAdapter)
    method.prepare(draw)
    return method


def masks(method: Method) -> list[Tensor]:
    return [module.mask.clone() for module in method.backbone.model.modules() if isinstance(module, MaskedLinear)]


def train(method: Method, steps: int = 4) -> None:
    optimizer = torch.optim.AdamW(method.parameter_groups(1e-2, 0.1))
    for step in range(steps):
        method.compute_loss(method.backbone.model.eval(), batch(step))[0].backward()
        optimizer.step()
        optimizer.zero_grad()


class TestMasks:
    SCORES = (torch.tensor([[5.0, 1.0], [4.0, 2.0]]), torch.tensor([[3.0, 6.0, 7.0]]))

    def test_globally_the_lowest_of_all_scores_go(self) -> None:
        # ceil(0.5 * 7) = 4 go: 1, 2, 3, 4
        first, second = global_masks(self.SCORES, keep_ratio=0.5)
        assert first.tolist() == [[True, False], [False, False]]
        assert second.tolist() == [[False, True, True]]

    def test_locally_the_lowest_of_every_tensor_go(self) -> None:
        # floor(0.5 * 4) = 2 go of the first, floor(0.5 * 3) = 1 of the second
        first, second = local_masks(self.SCORES, keep_ratio=0.5)
        assert first.tolist() == [[True, False], [True, False]]
        assert second.tolist() == [[False, True, True]]

    def test_roberta_base_keeps_the_papers_number_of_weights(self) -> None:
        scores = [torch.from_numpy(np.random.default_rng(0).random(24 * 2 * 768 * 64))]
        assert int(global_masks(scores, keep_ratio=0.6)[0].sum()) == 1_415_577

    def test_ties_with_the_threshold_go_too(self) -> None:
        assert not global_masks([torch.ones(2, 3)], keep_ratio=0.5)[0].any()

    def test_erdos_renyi_densities_by_hand(self) -> None:
        # (2 + 8) / 16 and (8 + 8) / 64 are as 10 to 4; 16 * 10 f + 64 * 4 f = 0.5 * 80 with f = 40 / 416
        expected = [10 * 40 / 416, 4 * 40 / 416]
        assert erdos_renyi_densities([(2, 8), (8, 8)], keep_ratio=0.5) == pytest.approx(expected)
        # at 0.6 the first would need 1.15: it is kept whole, and 32 of the 64 others are left
        assert erdos_renyi_densities([(2, 8), (8, 8)], keep_ratio=0.6) == pytest.approx([1.0, 0.5])

    def test_erdos_renyi_masks_have_these_densities_at_random_places(self) -> None:
        weights = [torch.empty(2, 8), torch.empty(8, 8)]
        first, second = (erdos_renyi_masks(weights, 0.6, np.random.default_rng(seed)) for seed in (0, 1))
        assert [int(mask.sum()) for mask in first] == [int(mask.sum()) for mask in second] == [16, 32]
        assert not torch.equal(first[1], second[1])


class TestScores:
    def test_magnitude_is_the_absolute_value(self) -> None:
        assert magnitudes([torch.tensor([-2.0, 1.0])])[0].tolist() == [2, 1]

    def test_random_scores_are_standard_normal(self) -> None:
        (scores,) = random_scores([torch.empty(100, 100)], np.random.default_rng(0))
        assert scores.mean().item() == pytest.approx(0, abs=0.05)
        assert scores.std().item() == pytest.approx(1, abs=0.05)

    def test_sensitivity_is_the_gradient_of_a_mask_of_ones(self) -> None:
        torch.manual_seed(0)
        weight, mask = torch.randn(3, 4), torch.ones(3, 4, requires_grad=True)
        hidden = torch.randn(5, 4)
        (hidden @ (weight * mask).T).tanh().sum().backward()
        parameter = weight.clone().requires_grad_()
        gradients = torch.autograd.grad((hidden @ parameter.T).tanh().sum(), [parameter])
        (scores,) = sensitivities([parameter], gradients)
        expected = mask.grad.abs()
        torch.testing.assert_close(scores, expected / (expected / expected.max()).sum())

    def test_sensitivity_by_hand_with_an_infinite_gradient(self) -> None:
        weights, gradients = [torch.tensor([2.0, -3.0])], [torch.tensor([-2.0, 2.0])]
        # 4 and 6; in units of the largest they sum to 10 / 6
        assert sensitivities(weights, gradients)[0].tolist() == pytest.approx([2.4, 3.6])
        found = sensitivities(weights, [torch.tensor([torch.inf, 2.0])])[0]
        assert found[0].isinf()
        assert found[1].item() == pytest.approx(6 / (1 / 6 + 1))

    def test_the_hessian_product_is_that_of_the_whole_hessian(self) -> None:
        torch.manual_seed(0)
        flat, batches = torch.randn(6, dtype=torch.float64), torch.randn(3, 4, 3, dtype=torch.float64)

        def loss(first: Tensor, second: Tensor, hidden: Tensor) -> Tensor:
            return ((hidden @ first).tanh() * (hidden @ second)).square().mean()

        def total(theta: Tensor) -> Tensor:
            return torch.stack([loss(theta[:3], theta[3:], hidden) for hidden in batches]).sum()

        gradient = torch.autograd.functional.jacobian(total, flat)
        hessian = torch.autograd.functional.hessian(total, flat)
        weights = [nn.Parameter(flat[:3].clone()), nn.Parameter(flat[3:].clone())]
        found = hessian_gradient_products(lambda: (loss(*weights, hidden) for hidden in batches), weights)
        torch.testing.assert_close(torch.cat(found), hessian @ gradient)
        assert all(weight.grad is None for weight in weights)

    def test_gradient_flow_keeps_the_sign(self) -> None:
        # 2 * 3 and 4 * (-1), divided by |6 - 4|
        first, second = gradient_flows(
            [torch.tensor([2.0]), torch.tensor([4.0])], [torch.tensor([3.0]), torch.tensor([-1.0])]
        )
        assert (first.item(), second.item()) == pytest.approx((3, -2))

    def test_gradients_of_all_batches_add_up_and_leave_nothing_behind(self) -> None:
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        (found,) = summed_gradients((weight @ torch.tensor([step, 1.0]) for step in (1.0, 2.0, 3.0)), [weight])
        assert found.tolist() == [6, 3]
        assert weight.grad is None

    def test_gradients_are_summed_where_the_first_batch_moves_the_weights_to(self) -> None:
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))

        def losses() -> Iterator[Tensor]:
            weight.data = weight.data.double()  # as a model goes to its device
            yield from (weight.sum() for _ in range(2))

        (found,) = summed_gradients(losses(), [weight])
        assert (found.dtype, found.tolist()) == (torch.float64, [2, 2])

    def test_synaptic_flow_by_hand(self) -> None:
        down, up = dense_pair(2, 2)
        adapter = Bottleneck(down, nn.ReLU(), up, scale=3.0)
        weights = {"down.weight": [[1.0, -2.0], [0.0, -1.0]], "up.weight": [[-1.0, 2.0], [3.0, 0.0]]}
        biases = {"down.bias": [-1.0, 0.0], "up.bias": [5.0, -5.0]}
        for name, value in {**weights, **biases}.items():
            adapter.get_parameter(name).data = torch.tensor(value)
        before = {name: tensor.clone() for name, tensor in adapter.named_parameters()}
        first, second = synaptic_flows([adapter])
        # All positive: r = |D| 1 + |b| = [4, 1]; the mean of 3 (|U| r + |b|) has dU[o, s] = 1.5 r_s and
        # dD[s, p] = 1.5 * the sum over o of |U|[o, s] = 1.5 * [4, 2].
        assert second.tolist() == [[6.0, 3.0], [18.0, 0.0]]
        assert first.tolist() == [[6.0, 12.0], [0.0, 3.0]]
        for name, tensor in adapter.named_parameters():
            assert torch.equal(tensor, before[name])
            assert tensor.grad is None


class TestMaskedLayer:
    def test_what_is_masked_has_no_part_and_no_gradient(self) -> None:
        torch.manual_seed(0)
        layer, hidden = MaskedLinear(4, 3), torch.randn(5, 4)
        layer.mask.copy_(torch.rand(3, 4) > 0.5)
        expected = layer(hidden)
        with torch.no_grad():
            layer.weight[~layer.mask] = 1000.0
        assert torch.equal(layer(hidden), expected)
        layer(hidden).square().sum().backward()
        assert not layer.weight.grad[~layer.mask].any()
        assert layer.weight.grad[layer.mask].all()

    def test_its_inference_form_has_zeros_in_these_places(self) -> None:
        layer = MaskedLinear(4, 3)
        layer.mask[1] = False
        finished = layer.finished()
        assert type(finished) is nn.Linear
        assert not finished.weight[1].any()
        assert torch.equal(finished.weight[0], layer.weight[0])


class TestScoring:
    @every_pruner
    @pytest.mark.parametrize("scope", ["global", "local"])
    def test_every_pruner_keeps_the_share_that_is_asked_for(self, pruner: str, scope: str) -> None:
        method = prepared(pruner=pruner, scope=scope, keep_ratio=0.25)
        report = method.report()
        # Units that no example reaches have scores of 0 and may all go together.
        assert 0.2 < report["density"] <= 0.2501
        assert report["kept_weights"] == sum(int(mask.sum()) for mask in masks(method))
        if scope == "local" or pruner == "er":
            assert all(density == pytest.approx(0.25, abs=0.05) for density in report["densities"].values())

    @pytest.mark.parametrize("pruner", ["snip", "grasp"])
    def test_gradients_are_those_of_the_task_over_all_batches(self, pruner: str) -> None:
        method = attached("sparseadapter", reduction=16, pruner=pruner)
        assert isinstance(method, SparseAdapter)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            model = method.backbone.model.eval()
            weights = [module.weight for module in model.modules() if isinstance(module, MaskedLinear)]
            total = torch.stack([model(**batch(step)).loss for step in range(16)]).sum()  # 3 classes: 96 examples
            gradients = torch.autograd.grad(total, weights, create_graph=True)
            if pruner == "snip":
                raw = [(weight * gradient).abs() for weight, gradient in zip(weights, gradients, strict=True)]
            else:
                inner = sum((gradient.detach() * gradient).sum() for gradient in gradients)
                raw = [
                    weight * product
                    for weight, product in zip(weights, torch.autograd.grad(inner, weights), strict=True)
                ]
        every = torch.cat([score.flatten() for score in raw])
        expected = every > every.sort().values[-(every.numel() * 6 // 10) - 1]
        method.prepare(draw)
        found = torch.cat([mask.flatten() for mask in masks(method)])
        assert (found != expected).sum() <= 2, "but for rounding at the threshold"

    def test_nothing_is_scored_where_everything_is_kept_and_the_run_is_the_dense_hosts(self) -> None:
        sparse, dense = (
            attached("sparseadapter", keep_ratio=1.0),
            attached("houlsby", reduction=12, nonlinearity="relu"),
        )
        sparse.prepare(unused)
        assert all(mask.all() for mask in masks(sparse))
        train(sparse)
        train(dense)
        assert torch.equal(logits(sparse, padded_batch()), logits(dense, padded_batch()))

    @pytest.mark.parametrize("pruner", ["rand", "mag", "synflow", "er"])
    def test_pruners_that_look_at_no_example_draw_none(self, pruner: str) -> None:
        method = attached("sparseadapter", pruner=pruner)
        method.prepare(unused)
        assert not all(mask.all() for mask in masks(method)), "they prune all the same"

    @every_pruner
    def test_masks_are_a_function_of_the_seed(self, pruner: str) -> None:
        assert all(map(torch.equal, masks(prepared(pruner=pruner)), masks(prepared(pruner=pruner))))

    @pytest.mark.parametrize("pruner", ["snip", "grasp", "synflow"])
    def test_scoring_leaves_the_model_as_it_was(self, pruner: str) -> None:
        method = attached("sparseadapter", pruner=pruner)
        model = method.backbone.model.train()
        before = {name: tensor.clone() for name, tensor in model.named_parameters()}
        state = torch.get_rng_state()
        method.prepare(draw)
        assert all(
            torch.equal(tensor, before[name]) and tensor.grad is None for name, tensor in model.named_parameters()
        )
        assert all(module.training for module in model.modules())
        assert torch.equal(torch.get_rng_state(), state)

    def test_half_precision_weights_are_float32_while_they_are_scored(self) -> None:
        model = attached("sparseadapter").backbone.model.eval()
        store_frozen_in(model, "bf16")
        before = {name: tensor.clone() for name, tensor in model.named_parameters()}
        model.bert.train()
        with scoring(model):
            assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
            assert not model.bert.training
        for name, tensor in model.named_parameters():
            assert tensor.dtype == before[name].dtype
            assert torch.equal(tensor, before[name])
        assert model.bert.training
        assert not model.training

    def test_masks_stay_as_they_are_in_training(self) -> None:
        method = prepared()
        before = masks(method)
        train(method)
        assert all(map(torch.equal, masks(method), before))

    def test_saved_masks_are_read_again(self, tmp_path: Path) -> None:
        method, again = prepared(), attached("sparseadapter", reduction=4)
        method.save(tmp_path)
        again.load(tmp_path)
        assert not all(mask.all() for mask in masks(again))
        assert all(map(torch.equal, masks(again), masks(method)))

    def test_a_mask_that_leaves_no_adapter_of_use_is_an_error(self) -> None:
        method = attached("sparseadapter", pruner="mag")
        for module in method.backbone.model.modules():
            if isinstance(module, MaskedLinear) and module.out_features == 64:
                nn.init.zeros_(module.weight)
        with pytest.raises(
            SettingsError, match=r"method\.pruner=mag with method\.keep_ratio=0\.6 leaves no adapter with"
        ):
            method.prepare(draw)

    def test_scores_that_are_no_numbers_are_an_error(self) -> None:
        method = attached("sparseadapter", pruner="snip")
        for module in method.backbone.model.modules():
            if isinstance(module, MaskedLinear):
                nn.init.zeros_(module.weight)
        with pytest.raises(SettingsError, match=r"method\.pruner=snip gives scores that are no finite numbers"):
            method.prepare(draw)


class TestMethod:
    def test_roberta_base_has_the_papers_number_of_parameters(self) -> None:
        assert count_on_roberta_base("sparseadapter") == 24 * (2 * 768 * 64 + 64 + 768)

    @pytest.mark.parametrize("q", [2, 4])
    def test_a_larger_and_sparser_adapter_keeps_as_many_weights_as_the_dense_one(self, q: int) -> None:
        method = prepared(large_sparse=q, reduction=8, pruner="rand")
        assert masks(method)[0].shape == (8 * q, 64)
        assert method.report()["kept_weights"] == pytest.approx(4 * 2 * 64 * 8, abs=1)

    def test_a_keep_ratio_of_its_own_holds_for_larger_adapters_too(self) -> None:
        assert prepared(large_sparse=2, keep_ratio=0.3, pruner="rand").report()["density"] == pytest.approx(
            0.3, abs=1e-3
        )

    @pytest.mark.parametrize("host", VARIANTS)
    def test_every_host_is_where_it_is_without_masks_and_starts_at_random(self, host: str) -> None:
        method = attached("sparseadapter", host=host)
        method.prepare(draw)
        names = {name for name, _ in trainable(method.backbone.model)}
        dense = attached("houlsby", variant=host, reduction=12)
        assert names == {name for name, _ in trainable(dense.backbone.model)}
        weights = [module.weight for module in method.backbone.model.modules() if isinstance(module, MaskedLinear)]
        assert all(weight.std().item() == pytest.approx(0.02, rel=0.2) for weight in weights)

    def test_the_number_of_scoring_examples_follows_that_of_classes(self) -> None:
        asked: list[int] = []

        def counting(count: int) -> Iterator[Mapping[str, Tensor]]:
            asked.append(count)
            return draw(count)

        attached("sparseadapter").prepare(counting)
        assert asked == [32 * 3]

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"host": "hulsby"}, r"method\.host=hulsby is unknown\. Did you mean 'houlsby'"),
            ({"pruner": "snib"}, r"method\.pruner=snib is unknown\. Did you mean 'snip'"),
            ({"scope": "lokal"}, r"method\.scope=lokal is unknown\. Did you mean 'local'"),
            ({"keep_ratio": 0.0}, r"method\.keep_ratio=0\.0 must be above 0 and at most 1"),
            ({"keep_ratio": 1.5}, r"method\.keep_ratio=1\.5 must be above 0 and at most 1"),
            ({"large_sparse": 0}, r"method\.large_sparse=0 must be a whole number of at least 1"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("sparseadapter", **settings).check(Anatomy(classifier("bert"), "bert"))
