"""MoLA: allocation, routing, the stacked experts and the balance, against loops over experts and hand-made numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import SettingsError
from methods.mola import allocation
from methods.parts.expert_linear import ExpertLinear, balance, gates, route
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, method_named

RANK = 2


def layer(experts: int = 4, top_k: int = 2, dropout: float = 0.0, base: nn.Module | None = None) -> ExpertLinear:
    """8 inputs, 6 outputs, all experts far from their start."""
    base = nn.Linear(8, 6) if base is None else base
    made = ExpertLinear(base, experts, top_k, RANK, alpha=3.0, dropout=dropout, keeps_logits=False)
    nn.init.normal_(made.B)
    return made


def gathered(made: ExpertLinear, hidden: Tensor) -> Tensor:
    """The mixture as a loop over experts that gathers the tokens which selected them."""
    result = torch.zeros(len(hidden), made.out_features)
    probabilities = (hidden @ made.U.T).softmax(-1)
    for token, p in enumerate(probabilities):
        chosen = sorted(range(made.experts), key=p.tolist().__getitem__, reverse=True)[: made.top_k]
        for j in chosen:
            rows = slice(j * RANK, (j + 1) * RANK)
            output = made.B[:, rows] @ (made.A[rows] @ hidden[token])
            result[token] = result[token] + p[j] / p[chosen].sum() * 3.0 / RANK * output
    return result


class TestAllocation:
    @pytest.mark.parametrize(
        ("experts", "blocks", "expected"),
        [
            ([2, 4, 6, 8], 12, [2, 2, 2, 4, 4, 4, 6, 6, 6, 8, 8, 8]),
            ([2, 4, 6, 8], 6, [2, 4, 6, 6, 8, 8]),
            ([2, 4, 6, 8], 2, [6, 8]),
            ([1, 3], 4, [1, 1, 3, 3]),
            ([5], 3, [5, 5, 5]),
        ],
    )
    def test_groups_are_equal_and_the_last_take_the_remainder(
        self, experts: list[int], blocks: int, expected: list[int]
    ) -> None:
        assert allocation(experts, blocks) == expected

    def test_a_run_reports_the_experts_of_its_layers(self) -> None:
        assert attached("mola").report() == {"experts": [6, 8]}

    @pytest.mark.parametrize("given", ["13", 13, [1, 3]])
    def test_it_is_given_as_digits_or_as_a_list(self, given: Any) -> None:
        assert attached("mola", experts=given).report() == {"experts": [1, 3]}


class TestRouting:
    def test_the_largest_probabilities_are_shared_out_among_themselves(self) -> None:
        logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1]]))
        weights, experts = route(logits[:1], 2)
        torch.testing.assert_close(weights, torch.tensor([[4 / 7, 3 / 7]]))
        assert experts.tolist() == [[1, 3]]
        torch.testing.assert_close(gates(weights, experts, 4).sum(-2), torch.tensor([[0, 4 / 7, 0, 3 / 7]]))

    def test_every_token_has_top_k_weights_that_sum_to_1(self) -> None:
        dense = gates(*route(torch.randn(5, 7, 6), 3), 6).sum(-2)
        torch.testing.assert_close(dense.sum(-1), torch.ones(5, 7))
        assert bool(((dense > 0).sum(-1) == 3).all())

    def test_half_precision_logits_are_weighed_in_float32(self) -> None:
        logits = torch.randn(5, 4).bfloat16()
        torch.testing.assert_close(route(logits, 2), route(logits.float(), 2), rtol=0, atol=0)

    def test_routers_work_in_float32_where_the_model_is_autocast(self) -> None:
        made = ExpertLinear(nn.Linear(8, 6), 4, 2, RANK, alpha=3.0, dropout=0.0, keeps_logits=True)
        hidden = torch.randn(5, 8)
        with torch.autocast("cpu", torch.bfloat16):
            made(hidden)
        torch.testing.assert_close(made.taken_logits(), hidden @ made.U.T, rtol=0, atol=0)

    def test_a_layer_with_fewer_experts_than_places_uses_all(self) -> None:
        assert layer(experts=2, top_k=3).top_k == 2


class TestLayer:
    @pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (2, 2), (4, 1), (4, 2), (5, 3)])
    def test_outputs_and_gradients_equal_those_of_a_loop_over_experts(self, experts: int, top_k: int) -> None:
        made, hidden = layer(experts, top_k), torch.randn(9, 8, requires_grad=True)
        direction = torch.randn(9, 6)
        results = [made(hidden), made.base(hidden) + gathered(made, hidden)]
        torch.testing.assert_close(*results)
        own = [made.A, made.B, made.U, hidden]
        found, expected = (torch.autograd.grad((y * direction).sum(), own, materialize_grads=True) for y in results)
        torch.testing.assert_close(found, expected)

    def test_one_expert_is_lora(self) -> None:
        made, hidden = layer(experts=1, top_k=1), torch.randn(2, 3, 8)
        expected = made.base(hidden) + 1.5 * functional.linear(functional.linear(hidden, made.A), made.B)
        torch.testing.assert_close(made(hidden), expected)

    def test_it_starts_at_its_base_and_the_routers_learn_once_an_expert_has_left_0(self) -> None:
        made, hidden = layer(), torch.randn(9, 8)
        nn.init.zeros_(made.B)
        assert torch.equal(made(hidden), made.base(hidden))
        made(hidden).square().sum().backward()
        assert not made.U.grad.any()  # type: ignore[union-attr]
        assert made.B.grad.any()  # type: ignore[union-attr]
        nn.init.normal_(made.B)
        made(hidden).square().sum().backward()
        assert made.U.grad.any()  # type: ignore[union-attr]

    def test_an_expert_that_no_token_selects_has_a_gradient_of_zeros(self) -> None:
        made, hidden = layer(), torch.rand(9, 8)
        made.U.data = torch.tensor([3.0, -1.0, 2.0, -2.0])[:, None].expand(4, 8).clone()
        made(hidden).square().sum().backward()
        assert made.A.grad is not None
        assert made.B.grad is not None
        by_expert = zip(made.A.grad.split(RANK), made.B.grad.split(RANK, dim=1), strict=True)
        assert [(bool(a.any()), bool(b.any())) for a, b in by_expert] == [(True, True), (False, False)] * 2

    def test_selected_experts_drop_features_independently_and_only_in_training(self) -> None:
        width = 200
        base = nn.Linear(width, 2 * width)
        made = ExpertLinear(base, 2, 2, width, alpha=width, dropout=0.25, keeps_logits=False)
        made.U.data.zero_()  # both experts have the weight 1/2
        made.A.data = torch.eye(width).repeat(2, 1)
        made.B.data = torch.eye(2 * width)  # the first expert fills the first half of the outputs
        hidden = torch.ones(50, width)
        dropped = 2 * (made.train()(hidden) - base(hidden)).detach()
        first, second = (dropped > 0.1).float().chunk(2, dim=-1)
        torch.testing.assert_close(dropped, (dropped > 0.1) / 0.75, rtol=1e-4, atol=1e-4)
        assert float(first.mean()) == pytest.approx(0.75, abs=0.02)
        assert float((first * second).mean()) == pytest.approx(0.75**2, abs=0.02)
        torch.testing.assert_close(2 * (made.eval()(hidden) - base(hidden)), torch.ones(50, 2 * width))

    def test_its_router_sees_what_dropout_leaves_out(self) -> None:
        made, hidden = layer(experts=5, dropout=0.9), torch.randn(30, 8)
        made.keeps_logits = True
        made.train()(hidden)
        torch.testing.assert_close(made.taken_logits(), hidden @ made.U.T)

    def test_it_says_that_it_cannot_merge(self) -> None:
        with pytest.raises(NotImplementedError, match="another matrix for every token"):
            layer().merged()


class TestBalance:
    def test_it_is_1_where_all_experts_are_equally_likely(self) -> None:
        assert float(balance(torch.zeros(6, 4), 2)) == pytest.approx(1)

    def test_it_weighs_mean_probabilities_with_shares_of_the_selections(self) -> None:
        probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
        # selections 0 and 1, 0 and 2: shares 1/2, 1/4, 1/4; means 0.55, 0.2, 0.25
        assert float(balance(probabilities.log(), 2)) == pytest.approx(3 * (0.55 / 2 + 0.2 / 4 + 0.25 / 4))

    def test_a_loss_has_the_sum_over_layers_of_all_modules_together(self) -> None:
        method = attached("mola", balance_weight=0.01, targets=["attention.query", "ffn.down"])
        seen: dict[str, Tensor] = {}
        for name, made in method.layers.items():  # type: ignore[attr-defined]
            made.register_forward_hook(lambda module, _, __, name=name: seen.update({name: module.logits}))
        total, task = method.compute_loss(method.backbone.model.eval(), batch())
        blocks = [[logits for name, logits in seen.items() if f"layer.{block}." in name] for block in range(2)]
        expected = 0.01 * sum(balance(torch.cat(logits), 2) for logits in blocks)
        torch.testing.assert_close(total - task, expected, rtol=1e-4, atol=1e-6)
        assert all(made.logits is None for made in method.layers.values())  # type: ignore[attr-defined]

    def test_it_is_off_by_default_and_keeps_no_logits(self) -> None:
        method = attached("mola")
        method.compute_loss(method.backbone.model, batch())
        assert method.penalty() is None
        assert all(made.logits is None for made in method.layers.values())  # type: ignore[attr-defined]


class TestMethod:
    @pytest.mark.parametrize("experts", ["2468", "8642", "8228", "5555"])
    def test_roberta_base_has_as_many_parameters_in_each_of_the_papers_shapes(self, experts: str) -> None:
        assert count_on_roberta_base("mola", experts=experts) == 7_050_240

    def test_the_count_follows_the_allocation(self) -> None:
        widths_in, widths_out = 5 * 768 + 3072, 5 * 768 + 3072  # four of 768 x 768, 768 x 3072 and 3072 x 768
        per_expert = 4 * (widths_in + widths_out) + widths_in
        assert count_on_roberta_base("mola", experts=[1, 3], rank=4) == (6 * 1 + 6 * 3) * per_expert

    def test_the_inference_form_keeps_experts_and_routers(self) -> None:
        method = attached("mola")
        assert not method.mergeable
        method.finish()
        assert sum(isinstance(module, ExpertLinear) for module in method.backbone.model.modules()) == 12

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"experts": "24a8"}, "method.experts: a must be a whole number of at least 1"),
            ({"experts": "2408"}, "method.experts: 0 must be a whole number of at least 1"),
            ({"experts": []}, "method.experts: 0 must be a whole number"),
            ({"top_k": 0}, "method.top_k=0 must be a whole number of at least 1"),
            ({"dropout": 1.0}, "method.dropout=1.0 must be at least 0 and below 1"),
            ({"balance_weight": -0.1}, "method.balance_weight=-0.1 must be at least 0"),
            ({"rank": 65}, "method.rank=65 is above the size of bert.*query .64"),
            ({"targets": ["pooler.dense"]}, "bert.pooler.dense lies in no layer"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, changes: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("mola", **changes).check(backbone().anatomy)
