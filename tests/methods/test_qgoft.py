"""GOFT and qGOFT: pairs, rotations, the fast path and the penalty, against dense products of sparse matrices."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import SettingsError
from methods.parts.givens import (
    GivensLinear,
    QuasiGivensLinear,
    dense,
    factors,
    givens,
    non_orthogonality,
    stacked_factors,
    tournament,
    turned,
    turned_back,
)
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, method_named

WIDTHS = [2, 7, 10, 48, 64, 96]
VARIANTS = ["goft", "goft_star", "qgoft"]


def pairs(width: int) -> list[list[tuple[int, int]]]:
    """The coupled features of every level: i = 2 k s, j = i + s."""
    return [[(2 * k * stride, (2 * k + 1) * stride) for k in range(count)] for stride, count in tournament(width)]


def product(blocks: Tensor) -> Tensor:
    """R = P_K ... P_1, every P_t written out."""
    width = len(blocks) + 1
    result, remaining = torch.eye(width, dtype=blocks.dtype), iter(blocks)
    for level in pairs(width):
        matrix = torch.eye(width, dtype=blocks.dtype)
        for i, j in level:
            rows, columns = torch.tensor([[i, i], [j, j]]), torch.tensor([[i, j], [i, j]])
            matrix = matrix.index_put((rows, columns), next(remaining))
        result = matrix @ result
    return result


def random_blocks(width: int) -> Tensor:
    return torch.eye(2) + 0.3 * torch.randn(width - 1, 2, 2)


def layer(variant: str, base: nn.Module | None = None) -> GivensLinear:
    """A layer of 48 inputs and 5 outputs, far from its start."""
    base = nn.Linear(48, 5) if base is None else base
    made = QuasiGivensLinear(base) if variant == "qgoft" else GivensLinear(base, scaled=variant == "goft_star")
    for parameter in (made.own, made.g):
        if parameter is not None:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return made


class TestTournament:
    def test_ten_features_meet_in_four_levels(self) -> None:
        assert pairs(10) == [[(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)], [(0, 2), (4, 6)], [(0, 4)], [(0, 8)]]

    @pytest.mark.parametrize("width", [2, 10, 768, 3072, 4096, 11008])
    def test_a_level_s_pairs_are_disjoint_and_all_levels_have_one_less_than_features(self, width: int) -> None:
        levels = pairs(width)
        assert sum(map(len, levels)) == width - 1
        for level in levels:
            features = list(itertools.chain(*level))
            assert len(set(features)) == len(features)
            assert max(features) < width


class TestTransform:
    @pytest.mark.parametrize("width", WIDTHS)
    def test_it_is_the_product_of_its_levels_the_first_innermost(self, width: int) -> None:
        blocks = random_blocks(width)
        torch.testing.assert_close(dense(blocks), product(blocks))

    @pytest.mark.parametrize("width", WIDTHS)
    def test_the_fast_path_has_the_values_and_gradients_of_the_dense_one(self, width: int) -> None:
        blocks, scale = random_blocks(width).double().requires_grad_(), torch.rand(width).double().requires_grad_()
        vectors = torch.randn(2, 3, width).double().requires_grad_()
        fast = turned(vectors, factors(blocks, scale))
        expected = vectors @ (product(blocks) @ torch.diag(scale))
        torch.testing.assert_close(fast, expected)
        direction = torch.randn_like(fast)
        found, wanted = (torch.autograd.grad((y * direction).sum(), (vectors, blocks, scale)) for y in (fast, expected))
        torch.testing.assert_close(found, wanted)

    def test_input_and_gradient_may_lie_in_memory_in_any_order(self) -> None:
        blocks, vectors = random_blocks(96), torch.randn(96, 5, 3).permute(2, 1, 0).requires_grad_()
        fast = turned(vectors, factors(blocks))
        torch.testing.assert_close(fast, vectors @ product(blocks))
        (found,) = torch.autograd.grad(fast.sum(), vectors)  # the gradient is one number, expanded
        torch.testing.assert_close(found, product(blocks).sum(1).expand(3, 5, 96))

    @pytest.mark.parametrize("width", WIDTHS)
    def test_back_is_the_transpose_and_undoes_a_rotation(self, width: int) -> None:
        vectors, blocks = torch.randn(3, width), random_blocks(width)
        torch.testing.assert_close(turned_back(vectors, factors(blocks)), vectors @ product(blocks).T)
        rotation = factors(givens(torch.randn(width - 1)))
        torch.testing.assert_close(turned_back(turned(vectors, rotation), rotation), vectors, rtol=1e-4, atol=1e-4)

    def test_its_parts_leave_the_identity_out(self) -> None:
        assert not any(part.any() for part in factors(torch.eye(2).repeat(95, 1, 1)))

    def test_a_parameter_is_an_angle_in_half_turns_behind_a_tanh(self) -> None:
        quarter = torch.atanh(torch.tensor([0.5]))
        torch.testing.assert_close(givens(quarter), torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]))

    def test_givens_blocks_make_a_rotation_and_free_ones_need_not(self) -> None:
        rotation, other = dense(givens(torch.randn(95))), dense(random_blocks(96))
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(96), rtol=0, atol=1e-5)
        assert float((other @ other.T - torch.eye(96)).abs().max()) > 0.1


class TestPenalty:
    def test_it_is_0_for_rotations_and_for_columns_of_any_length(self) -> None:
        assert float(non_orthogonality(givens(torch.randn(9)))) == pytest.approx(0, abs=1e-10)
        assert float(non_orthogonality(torch.tensor([[[2.0, -3.0], [2.0, 3.0]]]))) == 0

    def test_it_sums_the_squared_products_of_the_columns(self) -> None:
        shears = torch.tensor([[[1.0, 1.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]])
        assert float(non_orthogonality(shears)) == 1**2 + (1 * 2 + 3 * 4) ** 2

    def test_it_counts_every_pair_of_every_layer(self) -> None:
        method = attached("qgoft", orthogonality_weight=0.5)
        with torch.no_grad():
            assert float(method.penalty()) == 0  # type: ignore[arg-type]
            for made in method.layers.values():  # type: ignore[attr-defined]
                made.G.copy_(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
            pairs_in_all = 2 * (5 * 63 + 127)  # two blocks: five layers of width 64, one of 128
            assert float(method.penalty()) == 0.5 * pairs_in_all  # type: ignore[arg-type]

    def test_the_loss_of_goft_has_none(self) -> None:
        assert attached("goft").penalty() is None


class TestLayer:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_it_turns_its_input_and_merges_to_that(self, variant: str) -> None:
        base, hidden = nn.Linear(48, 5), torch.randn(3, 2, 48)
        made = layer(variant, copy.deepcopy(base))
        turn = product(made.blocks(made.own)) @ torch.diag(torch.ones(48) if made.g is None else made.g)
        expected = base(hidden @ turn)
        torch.testing.assert_close(made(hidden), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.merged()(hidden), expected, rtol=1e-4, atol=1e-5)

    def test_merging_a_rotation_keeps_the_rows_norms_and_angles(self) -> None:
        base = nn.Linear(48, 5)
        gram = base.weight @ base.weight.T
        merged = layer("goft", base).merged()
        torch.testing.assert_close(merged.weight @ merged.weight.T, gram, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("kind", [GivensLinear, QuasiGivensLinear])
    def test_it_starts_exactly_at_its_base(self, kind: type[GivensLinear], dtype: torch.dtype) -> None:
        base, hidden = nn.Linear(48, 5, dtype=dtype), torch.randn(3, 48, dtype=dtype)
        assert torch.equal(kind(base)(hidden), base(hidden))

    def test_autocast_does_not_round_its_transform(self) -> None:
        made, hidden = layer("goft"), torch.randn(3, 48)
        made.base = nn.Identity()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = made(hidden)
        assert torch.equal(rounded, made(hidden))

    @pytest.mark.parametrize("width", [33, 32, 48])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_the_factors_of_many_layers_at_once_are_those_of_each(self, variant: str, width: int) -> None:
        layers = [layer(variant, nn.Linear(width, 5)) for _ in range(3)]
        for made, together in zip(layers, stacked_factors(layers), strict=True):
            torch.testing.assert_close(together, made.factors())


class TestMethod:
    @pytest.mark.parametrize(
        ("name", "changes", "expected"),
        [
            ("goft", {}, 82_872),
            ("goft", {"variant": "goft_star"}, 82_872 + 12 * (5 * 768 + 3072)),
            ("qgoft", {}, 331_488),
        ],
    )
    def test_roberta_base_has_the_published_number_of_parameters(
        self, name: str, changes: dict[str, Any], expected: int
    ) -> None:
        assert count_on_roberta_base(name, **changes) == expected

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_the_loss_is_that_of_the_layers_on_their_own(self, variant: str) -> None:
        method = attached("goft", variant=variant)
        for made in method.layers.values():  # type: ignore[attr-defined]
            made.own.data += 0.2 * torch.randn_like(made.own)
        model, inputs = method.backbone.model.eval(), batch()
        together, _ = method.compute_loss(model, inputs)
        torch.testing.assert_close(together, model(**inputs).loss)

    def test_after_a_loss_the_layers_hold_nothing_that_would_keep_the_model_from_being_copied(self) -> None:
        method = attached("goft")
        method.compute_loss(method.backbone.model, batch())
        copy.deepcopy(method.backbone.model)
        assert all(made.together is None for made in method.layers.values())  # type: ignore[attr-defined]

    def test_the_blocks_do_not_decay(self) -> None:
        method = attached("qgoft")
        decayed = [g for g in method.parameter_groups(1e-3, 0.1) if g["weight_decay"]]
        assert [p.shape for g in decayed for p in g["params"]] == [(3, 64)]  # the head's weight

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"variant": "gooft"}, "method.variant=gooft is unknown. Did you mean 'goft'"),
            ({"orthogonality_weight": -1.0}, "method.orthogonality_weight=-1.0 must be at least 0"),
            ({"orthogonality_weight": 1.0, "variant": "goft_star"}, "is for method.variant=qgoft"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, changes: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("qgoft", **changes).check(backbone().anatomy)
