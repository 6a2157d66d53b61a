"""TriAdaptLoRA: the triangular core, its growth and the schedule, against hand-worked numbers."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.errors import SettingsError
from bench.measure import parameters
from bench.measure.throughput import StepClock
from methods.parts.growing import GrowingLinear, joined
from methods.parts.growing_core import TriangularLinear, core, cores, normalised_norms
from methods.triadaptlora import TriAdaptLora, layers_to_grow
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
SLOW_GROWTH = {"rank": 2, "incre_rank_num": 1, "init_warmup": 4, "incre_interval": 4}
"""From 12 ranks to 24 in a run of 24 steps: (24 - R) (step - 4) / 20 layers after steps 8, 12, 16 and 20."""


def triadaptlora(**changes: Any) -> Any:
    return attached("triadaptlora", STEPS, **{**SLOW_GROWTH, **changes})


trained = functools.partial(train, steps=STEPS)


def triangular_layer(rank: int = 1, block_rank: int = 2) -> TriangularLinear:
    """A layer from width 4 to width 3 whose first B is not 0."""
    layer = TriangularLinear(nn.Linear(4, 3), rank, block_rank, alpha=16, dropout=0.0)
    nn.init.normal_(layer.blocks[0].get_parameter("B"))
    return layer


def extend(layer: GrowingLinear) -> list[nn.Parameter]:
    return layer.extend(method_named("triadaptlora").random(0))


class TestCore:
    def test_the_triangles_are_put_together_by_hand(self) -> None:
        rows = [torch.tensor([[1.0]]), torch.tensor([[2.0, 3.0, 4.0], [5.0, 6.0, 7.0]])]
        columns = [torch.tensor([[10.0]]), torch.tensor([[20.0, 30.0], [40.0, 50.0], [60.0, 70.0]])]
        expected = torch.tensor([[11.0, 20.0, 30.0], [2.0, 43.0, 54.0], [5.0, 66.0, 77.0]])
        assert torch.equal(core(rows, columns), expected)

    def test_blocks_of_size_1_make_two_triangles_that_share_the_diagonal(self) -> None:
        sizes = range(1, 5)
        rows, columns = [torch.ones(1, size) for size in sizes], [torch.ones(size, 1) for size in sizes]
        zeros = [torch.zeros(1, size) for size in sizes], [torch.zeros(size, 1) for size in sizes]
        assert torch.equal(core(rows, zeros[1]), torch.ones(4, 4).tril())
        assert torch.equal(core(zeros[0], columns), torch.ones(4, 4).triu())
        assert sum(row.numel() + column.numel() for row, column in zip(rows, columns, strict=True)) == 4 * 5

    def test_cores_of_several_layers_are_those_of_each(self) -> None:
        layers = [triangular_layer() for _ in range(3)]
        for layer in layers:
            extend(layer)
            nn.init.normal_(layer.blocks[1].get_parameter("C_col"))
        torch.testing.assert_close(cores(layers), torch.stack([cores([layer])[0] for layer in layers]))

    def test_the_score_is_made_of_the_norm_by_the_number_of_blocks(self) -> None:
        layer = triangular_layer()
        nn.init.constant_(layer.blocks[0].get_parameter("C_row"), 3.0)
        nn.init.constant_(layer.blocks[0].get_parameter("C_col"), 1.0)
        torch.testing.assert_close(normalised_norms([layer]), torch.tensor([4.0]))
        extend(layer)
        nn.init.constant_(layer.blocks[1].get_parameter("C_row"), 0.5)
        # sqrt(4^2 + 6 * 0.5^2) / 2 blocks, though the rank is 3
        torch.testing.assert_close(normalised_norms([layer]), torch.tensor([17.5**0.5 / 2]))


class TestLayer:
    def test_output_by_hand(self) -> None:
        layer = TriangularLinear(nn.Linear(2, 2, bias=False), 1, 1, alpha=16, dropout=0.0)
        block = {"A": [[1.0, 2.0]], "C_row": [[0.25]], "C_col": [[0.25]], "B": [[1.0], [-1.0]]}
        for name, value in {"base.weight": [[1.0, 0.0], [0.0, 1.0]]}.items():
            layer.get_parameter(name).data = torch.tensor(value)
        for name, value in block.items():
            layer.blocks[0].get_parameter(name).data = torch.tensor(value)
        # A x = 11, times C = 0.5 is 5.5
        update = 5.5 * 16 / 1.00001
        torch.testing.assert_close(layer(torch.tensor([3.0, 4.0])), torch.tensor([3 + update, 4 - update]))

    def test_growth_leaves_the_product_as_it_is_and_changes_the_divisor(self) -> None:
        layer = triangular_layer(rank=1, block_rank=2)
        before = layer.delta_weight()
        extend(layer)
        torch.testing.assert_close(layer.delta_weight(), before * 1.00001 / 3.00001)

    def test_the_first_gradient_reaches_the_first_b_alone(self) -> None:
        layer = TriangularLinear(nn.Linear(4, 3), 2, 2, alpha=16, dropout=0.0)
        layer(torch.randn(5, 4)).square().sum().backward()
        assert _reached(layer) == ["blocks.0.B"]

    def test_with_a_core_of_zeros_the_first_gradient_reaches_the_core_alone_and_growth_adds_nothing(self) -> None:
        layer = TriangularLinear(nn.Linear(4, 3), 2, 2, alpha=16, dropout=0.0, zero_core=True)
        assert not layer.delta_weight().any()
        layer(torch.randn(5, 4)).square().sum().backward()
        assert set(_reached(layer)) == {"blocks.0.C_row", "blocks.0.C_col"}

        nn.init.normal_(layer.blocks[0].get_parameter("C_row"))
        before, norm = layer.delta_weight(), normalised_norms([layer])
        extend(layer)
        torch.testing.assert_close(layer.delta_weight(), before * 2.00001 / 4.00001)
        torch.testing.assert_close(normalised_norms([layer]), norm / 2)

    def test_gradients_reach_the_outer_parts_of_a_new_block_at_once(self) -> None:
        layer = triangular_layer()
        extend(layer)
        layer(torch.randn(5, 4)).square().sum().backward()
        assert set(_reached(layer)) == {
            *(f"blocks.0.{name}" for name in ("A", "B", "C_row", "C_col")),
            *("blocks.1.B", "blocks.1.C_col"),
        }

    def test_layers_put_together_compute_what_each_computes_alone(self) -> None:
        layers = [triangular_layer() for _ in range(3)]
        for layer in layers[:2]:
            extend(layer)
        hidden = torch.randn(2, 4)
        alone = [layer(hidden) for layer in layers]
        with joined(layers):
            together = [layer(hidden) for layer in layers]
        torch.testing.assert_close(together, alone)


class TestSchedule:
    @pytest.mark.parametrize(
        ("growth", "counts"),
        # 72 ranks are missing: 72 mu, and 72^mu = 1, 2.91, 8.49, 72
        [("linear", [1, 18, 36, 72]), ("non-linear", [1, 2, 8, 72])],
    )
    def test_the_number_of_layers_follows_progress(self, growth: str, counts: list[int]) -> None:
        assert [layers_to_grow(growth, 72, progress, layers=80) for progress in (0, 0.25, 0.5, 1)] == counts

    def test_at_most_all_layers_grow(self) -> None:
        assert layers_to_grow("linear", 500, 0.5, layers=72) == 72


class TestMethod:
    @pytest.mark.parametrize(("changes", "events", "count"), [
        ({}, 0, 166_032),
        ({"rank": 8, "incre_rank_num": 4}, 2, 1_501_200),
        ({"rank": 8, "incre_rank_num": 1}, 7, 1_332_288),
    ])  # fmt: skip
    def test_roberta_base_has_the_worked_numbers_of_parameters(
        self, changes: dict[str, int], events: int, count: int
    ) -> None:
        method, base = method_named("triadaptlora", **changes), roberta_base()
        method.attach(base, 100)
        assert isinstance(method, TriAdaptLora)
        for layer in method.layers.values():
            for _ in range(events):
                extend(layer)
        assert parameters.count(base.model, base.anatomy).trainable == count
        assert events or count_on_roberta_base("triadaptlora", **changes) == count

    def test_every_event_adds_one_optimizer_group_of_four_tensors_per_layer(self) -> None:
        method = triadaptlora()
        training = loop(method, STEPS)
        initial = len(method.optimizer.param_groups)
        training.run(StepClock("cpu"), lambda point: None)
        groups = method.optimizer.param_groups[initial:]
        # int(12 * 4/20) = 2, int(10 * 8/20) = 4, int(6 * 12/20) = 3, int(3 * 16/20) = 2 of twelve layers
        assert [len(event["layers"]) for event in method.events] == [2, 4, 3, 2]
        assert [len(group["params"]) for group in groups] == [8, 16, 12, 8]
        assert [group["begins"] for group in groups] == [9, 13, 17, 21]
        report = method.report()
        assert (report["total_rank"], report["budget"], report["last_growth_step"]) == (23, 24, 20)

    def test_layers_grow_whose_core_changed_most_since_the_last_event(self) -> None:
        method = triadaptlora()
        training = trained(method, until=8)
        before = method.norms.clone()
        torch.testing.assert_close(before, normalised_norms(triadaptlora().growing_layers))
        now = normalised_norms(method.growing_layers)
        training.run(StepClock("cpu"), lambda point: None, 9)
        assert set(method.events[0]["layers"]) == set((now - before).topk(2).indices.tolist())
        torch.testing.assert_close(method.norms, now)  # before growth, which is thus part of the next score

    def test_nothing_grows_beyond_the_event_that_uses_up_the_budget(self) -> None:
        method = triadaptlora(rank=4, incre_rank_num=3, init_warmup=0, incre_interval=2)
        trained(method)
        totals = [12]
        for event in method.events:
            totals.append(totals[-1] + 3 * len(event["layers"]))
        assert all(total < method.budget for total in totals[:-1])
        assert totals[-1] == method.total_rank >= method.budget

    @pytest.mark.parametrize("until", [10, STEPS], ids=["growing", "grown"])
    def test_an_adapter_saved_at_any_time_has_its_ranks(self, until: int, tmp_path: Path) -> None:
        method, again = triadaptlora(), triadaptlora()
        trained(method, until)
        method.save(tmp_path)
        again.load(tmp_path)
        assert again.report()["ranks"] == method.report()["ranks"]
        assert torch.equal(logits(again, batch()), logits(method, batch()))

    @pytest.mark.parametrize("stop", [5, 13, 22], ids=["warm-up", "growing", "grown"])
    def test_a_resumed_run_equals_an_uninterrupted_one(self, stop: int) -> None:
        whole, half, resumed = (triadaptlora() for _ in range(3))
        trained(whole)
        file = io.BytesIO()
        torch.save(trained(half, stop).state_dict(), file)
        file.seek(0)
        rest = loop(resumed, STEPS)
        rest.load_state_dict(torch.load(file, weights_only=True))
        rest.run(StepClock("cpu"), lambda point: None)
        expected = dict(whole.backbone.model.named_parameters())
        found = dict(resumed.backbone.model.named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        assert resumed.events == whole.events

    def test_an_unknown_kind_of_growth_is_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"method.growth=nonlinear is unknown. Did you mean 'non-linear'"):
            attached("triadaptlora", growth="nonlinear")


def _reached(layer: TriangularLinear) -> list[str]:
    """Names of the layer's own tensors that got a gradient other than 0."""
    own = ((name, tensor) for name, tensor in layer.named_parameters() if not name.startswith("base."))
    return [name for name, tensor in own if tensor.grad is not None and tensor.grad.any()]
