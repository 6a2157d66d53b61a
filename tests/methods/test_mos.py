"""MoS: pools, tables of shards and what they are put together to, against hand-made numbers and dense references."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.errors import SettingsError
from methods.base import Method, trainable
from methods.parts.shards import Division, ShardLinear, ShardPool, assemble
from tests import families
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, method_named

# Two layers of a width of 64: with e = 4, p = 1 and l = 2 a pool has 16 shards, of which 12 are public.
SETTINGS = {"equivalent_rank": 4, "rank": 5, "private_rank": 1, "shards_per_vector": 2, "dropout": 0.0}
TARGETS = {"targets": ["attention.query", "attention.value"]}
PUBLIC = 12


def mos(**changes: Any) -> Method:
    return attached("mos", **(SETTINGS | TARGETS | changes))


def perturbed(method: Method) -> Method:
    """All trainable tensors far from their start."""
    torch.manual_seed(2)
    for _, parameter in trainable(method.backbone.model):
        nn.init.normal_(parameter, std=0.3)
    return method


def queries(method: Method) -> list[ShardLinear]:
    return [layer for name, layer in method.layers.items() if name.endswith("query")]


def shard_layers(division: Division, rank: int) -> list[ShardLinear]:
    """All layers of a small projection of 4 to 6 features, with both pools random."""
    pool = ShardPool.of(division, 4, 6, torch.device("cpu"))
    nn.init.normal_(pool.B)
    return [ShardLinear(nn.Linear(4, 6), pool, i, rank, alpha=16, dropout=0.0) for i in range(division.layers)]


class TestDivision:
    division = Division(equivalent_rank=3, private_rank=1, shards_per_vector=2, layers=4)

    def test_public_shards_come_first_and_every_layer_owns_the_next_ones_in_a_row(self) -> None:
        assert (self.division.total, self.division.public) == (24, 16)
        assert [self.division.private(layer).tolist() for layer in range(4)] == [[16, 17], [18, 19], [20, 21], [22, 23]]

    def test_a_layer_draws_different_public_shards_and_appends_its_own(self) -> None:
        table = self.division.drawn(rank=6, position=2).tolist()
        assert len(table) == 12
        assert table[10:] == [20, 21]
        assert len(set(table[:10])) == 10
        assert max(table[:10]) < 16

    def test_the_largest_rank_takes_every_public_shard(self) -> None:
        assert self.division.largest_rank == 9
        assert sorted(self.division.drawn(9, 0)[:16].tolist()) == list(range(16))

    def test_where_all_is_private_a_layer_has_what_lora_of_that_rank_has(self) -> None:
        assert Division(2, 2, 1, layers=3).drawn(2, 1).tolist() == [2, 3]


class TestAssembly:
    def test_a_row_is_its_shards_side_by_side(self) -> None:
        pool = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
        expected = [[5.0, 6.0, 1.0, 2.0], [7.0, 8.0, 5.0, 6.0]]
        assert assemble(pool, torch.tensor([2, 0, 3, 2]), rank=2).tolist() == expected

    def test_the_change_is_alpha_over_rank_times_b_a(self) -> None:
        torch.manual_seed(0)
        layer = shard_layers(Division(2, 1, 2, layers=3), rank=4)[1]
        for_a, for_b = layer.tables.tolist()
        A = torch.stack([torch.cat([layer.pool_A[for_a[2 * row + part]] for part in (0, 1)]) for row in range(4)])
        B = torch.stack([torch.cat([layer.pool_B[for_b[2 * row + part]] for part in (0, 1)]) for row in range(4)]).T
        hidden = torch.randn(5, 4)
        torch.testing.assert_close(layer(hidden), layer.base(hidden) + 16 / 4 * hidden @ A.T @ B.T)

    def test_private_whole_vectors_of_equal_rank_are_lora(self) -> None:
        torch.manual_seed(0)
        layers = shard_layers(Division(2, 2, 1, layers=3), rank=2)
        hidden = torch.randn(5, 4)
        for position, layer in enumerate(layers):
            own = slice(2 * position, 2 * position + 2)
            A, B = layer.pool_A[own], layer.pool_B[own].T
            torch.testing.assert_close(layer(hidden) - layer.base(hidden), 8.0 * hidden @ A.T @ B.T)

    def test_a_shard_s_gradient_is_the_sum_over_the_rows_that_contain_it(self) -> None:
        torch.manual_seed(0)
        layers = shard_layers(Division(2, 1, 2, layers=3), rank=3)
        hidden, wanted = torch.randn(5, 4), torch.randn(5, 6)
        expected = torch.zeros_like(layers[0].pool_A)
        for layer in layers:
            functional.mse_loss(layer(hidden), wanted).backward()
            A, B = (factor.detach().clone().requires_grad_() for factor in layer.factors())
            functional.mse_loss(layer.base(hidden) + 16 / 3 * hidden @ A.T @ B.T, wanted).backward()
            assert A.grad is not None
            for shard, gradient in zip(layer.tables[0].tolist(), A.grad.view(-1, 2), strict=True):
                expected[shard] += gradient
        torch.testing.assert_close(layers[0].pool_A.grad, expected)


class TestPools:
    def test_every_projection_has_one_pair_that_all_its_layers_hold(self) -> None:
        method = mos()
        first, second = queries(method)
        assert first.pool_A is second.pool_A
        assert first.pool_B is second.pool_B
        values = [layer for name, layer in method.layers.items() if name.endswith("value")]
        assert values[0].pool_A is not first.pool_A
        own = [name for name, _ in trainable(method.backbone.model) if ".pool_" in name]
        assert len(own) == 4, "two pairs, each tensor once"

    def test_a_copy_of_the_model_shares_its_own_pools(self) -> None:
        method = mos()
        names = [name for name in method.layers if name.endswith("query")]
        model = copy.deepcopy(method.backbone.model)
        first, second = (model.get_submodule(name) for name in names)
        assert first.pool_A is second.pool_A
        assert first.pool_A is not queries(method)[0].pool_A

    def test_a_starts_within_the_bound_of_the_whole_width_and_b_at_zero(self) -> None:
        torch.manual_seed(0)
        pool = ShardPool.of(Division(4, 1, 4, layers=12), 64, 32, torch.device("cpu"))
        assert pool.A.shape == (4 * 12 * 4, 16)
        assert pool.B.shape == (4 * 12 * 4, 8)
        assert 0.99 / 8 < float(pool.A.detach().abs().max()) <= 1 / 8  # 1 / sqrt(64), not 1 / sqrt(16)
        assert not pool.B.any()

    def test_layers_of_unequal_width_have_pools_of_their_own(self) -> None:
        """Swin's stages widen: 2 blocks of width 32, then one of 64."""
        method = method_named("mos", **(SETTINGS | {"targets": ["attention.query"], "rank": None, "private_rank": 0}))
        base = families.backbone(families.classifier("swin"))
        method.check(base.anatomy)
        widths = {part.module.in_features for part in base.anatomy.match(["attention.query"])}
        method.attach(base, 8)
        assert {layer.pool_A.shape[1] * 2 for layer in method.layers.values()} == widths == {32, 64}


class TestTables:
    def test_a_and_b_draw_apart_and_so_do_layers_and_projections(self) -> None:
        drawn = [tuple(table[:8].tolist()) for layer in mos().layers.values() for table in layer.tables]
        assert len(set(drawn)) == 8

    def test_private_shards_are_the_same_in_a_and_b_and_no_other_layer_s(self) -> None:
        first, second = queries(mos())
        assert first.tables[:, 8:].tolist() == [[PUBLIC, PUBLIC + 1]] * 2
        assert second.tables[:, 8:].tolist() == [[PUBLIC + 2, PUBLIC + 3]] * 2
        assert int(first.tables[:, :8].max()) < PUBLIC

    def test_half_precision_leaves_them_whole_numbers(self) -> None:
        layer = queries(mos())[0]
        before = layer.tables.clone()
        layer.half()
        assert layer.tables.dtype == torch.int64
        assert torch.equal(layer.tables, before)

    def test_a_saved_adapter_brings_its_tables_to_a_model_that_drew_others(self, tmp_path: Path) -> None:
        method = perturbed(mos())
        method.save(tmp_path)
        again, base = method_named("mos", **(SETTINGS | TARGETS)), backbone()
        torch.manual_seed(99)
        again.attach(base, 8)
        assert not torch.equal(queries(again)[0].tables, queries(method)[0].tables)
        again.load(tmp_path)
        assert torch.equal(logits(again, batch()), logits(method, batch()))

    def test_the_report_tells_which_public_shards_nobody_uses(self) -> None:
        method = mos(targets=["attention.query"])
        used_in_a = {shard for layer in queries(method) for shard in layer.tables[0].tolist() if shard < PUBLIC}
        ((_, unused),) = method.report()["unused_public_shards"].items()
        assert unused["A"] == pytest.approx(1 - len(used_in_a) / PUBLIC)
        whole = mos(rank=7).report()["unused_public_shards"].values()
        assert all(share == {"A": 0, "B": 0} for share in whole), "every layer draws all"


class TestSettings:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"rank": 4}, {"rank": 13}, {"private_rank": 0}, {"private_rank": 2, "rank": 2}, {"shards_per_vector": 4}],
    )
    def test_parameters_are_those_of_lora_of_the_equivalent_rank(self, changes: dict[str, Any]) -> None:
        assert count_on_roberta_base("mos", **changes) == 331_776

    def test_parameters_grow_with_the_equivalent_rank(self) -> None:
        assert count_on_roberta_base("mos", equivalent_rank=8, rank=16) == 1_327_104

    @pytest.mark.parametrize(("layers", "rank"), [(12, 8), (6, 7), (2, 3)])
    def test_the_default_rank_is_8_where_the_pools_are_large_enough(self, layers: int, rank: int) -> None:
        base = families.backbone(families.classifier("bert", num_hidden_layers=layers))
        method = method_named("mos")
        method.check(base.anatomy)
        method.attach(base, 8)
        assert method.report()["rank"] == rank

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"equivalent_rank": 0}, "method.equivalent_rank=0 must be a whole number of at least 1"),
            ({"private_rank": -1}, "method.private_rank=-1 must be a whole number of at least 0"),
            ({"rank": 2.5}, "method.rank=2.5 must be a whole number of at least 1"),
            ({"private_rank": 5}, "method.private_rank=5 must be at most method.equivalent_rank=4"),
            ({"private_rank": 3, "rank": 2}, "method.private_rank=3 must be at most method.rank=2"),
            ({"shards_per_vector": 3}, "method.shards_per_vector=3 does not divide the width of bert.*query .64"),
            ({"rank": 8}, "method.rank=8 is above 7, which is what the shards of 2 layers suffice for .*query"),
            ({"private_rank": 4, "rank": 5}, "method.rank=5 is above 4"),
            ({"equivalent_rank": 40, "rank": 65}, "method.rank=65 is above the size of bert.*query .64"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, changes: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("mos", **(SETTINGS | TARGETS | changes)).check(backbone().anatomy)
