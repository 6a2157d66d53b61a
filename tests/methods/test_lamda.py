"""LaMDA and LaMDA++: the schedule of freezing, its hold on AdamW, the spectral start and the allotted ranks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import SettingsError
from bench.measure.throughput import StepClock
from bench.training.loop import TrainingLoop
from methods.lamda import Lamda, allocated_ranks, candidate_ranks, frozen_columns
from methods.parts.decomposed_linear import CoreLinear, HeldColumns
from methods.parts.decompositions import normalised_energy, svd_start, thin_svd
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, loop, method_named, train

STEPS = 10
RANK = 4


def lamda(**settings: Any) -> Lamda:
    """Attached to a run of ten steps, of which B trains in the first five; weights decay strongly."""
    defaults = {"rank": RANK, "eta": 0.5}
    return attached("lamda", STEPS, **(defaults | settings))  # type: ignore[return-value]


def run(method: Lamda, until: int | None = None) -> TrainingLoop:
    training = decaying_loop(method)
    torch.manual_seed(1)
    training.run(StepClock("cpu"), lambda point: None, until)
    return training


def decaying_loop(method: Lamda) -> TrainingLoop:
    training = loop(method, STEPS)
    for group in method.optimizer.param_groups:
        group["weight_decay"] = 0.1
    return training


def columns(method: Lamda) -> list[Tensor]:
    return [layer.B.detach().clone() for layer in method.layers.values()]


class TestSchedule:
    def test_columns_by_hand(self) -> None:
        # B trains in 3 of 10 steps: 4 i / 3, cut
        assert [frozen_columns(step, 4, 0.3, 10) for step in range(5)] == [0, 1, 2, 4, 4]

    @pytest.mark.parametrize(("eta", "total_steps"), [(0.3, 10), (0.07, 100), (0.7, 50), (0.29, 100), (1.0, 7)])
    def test_all_are_frozen_from_the_end_of_b_s_share_on_and_none_comes_back(
        self, eta: float, total_steps: int
    ) -> None:
        end = round(eta * total_steps)
        for rank in (1, 3, 16, 49):
            counts = [frozen_columns(step, rank, eta, total_steps) for step in range(total_steps + 1)]
            assert counts[0] == 0
            assert counts[end - 1] < rank
            assert counts[end] == rank
            assert counts == sorted(counts)


class TestAllocation:
    @pytest.mark.parametrize(("rank", "candidates"), [(16, (8, 16, 24)), (2, (1, 2, 3)), (5, (2, 5, 8))])
    def test_candidates_have_the_rank_as_their_mean(self, rank: int, candidates: tuple[int, int, int]) -> None:
        assert candidate_ranks(rank) == candidates
        assert sum(candidates) == 3 * rank

    def test_energy_by_hand(self) -> None:
        assert normalised_energy(torch.tensor([2.0, 1.0, 1.0, 9.0]), 1, 3).item() == pytest.approx(4 / 6)

    def test_the_most_concentrated_layers_get_the_smallest_rank(self) -> None:
        assert allocated_ranks([0.5, 0.9, 0.7, 0.6, 0.8, 0.4], [1, 2, 3]) == [3, 1, 2, 2, 1, 3]

    def test_equal_energies_keep_their_order(self) -> None:
        assert allocated_ranks([0.5, 0.5, 0.5], [1, 2, 3]) == [1, 2, 3]

    @pytest.mark.parametrize("layers", range(1, 12))
    def test_the_mean_is_the_rank_for_any_number_of_layers(self, layers: int) -> None:
        assert sum(allocated_ranks([1 / (1 + i) for i in range(layers)], [2, 4, 6])) == 4 * layers

    def test_layers_of_known_spectra(self) -> None:
        base = backbone()
        spectra = {"query": torch.ones(64), "key": 0.9 ** torch.arange(64), "value": 0.1 ** torch.arange(64)}
        for block in base.model.bert.encoder.layer:
            for name, spectrum in spectra.items():
                getattr(block.attention.self, name).weight.data = torch.diag(spectrum).float()
        method = method_named("lamda_pp", rank=4, targets=[f"attention.{name}" for name in spectra])
        method.attach(base, STEPS)
        ranks = {name.rpartition(".")[2]: rank for name, rank in method.report()["rank"].items()}
        assert ranks == {"query": 6, "key": 4, "value": 2}


class TestStart:
    @pytest.mark.parametrize("alpha", [None, 2.0])
    def test_the_spectral_start_splits_the_weight(self, alpha: float | None) -> None:
        torch.manual_seed(0)
        base, hidden = nn.Linear(6, 5), torch.randn(7, 6)
        part: Any = type("Part", (), {"module": copy.deepcopy(base), "name": "layer"})()
        method: Any = method_named("lamda", rank=3, alpha=alpha)
        method.share([part])
        layer = method.adapted(part)
        torch.testing.assert_close(layer(hidden), base(hidden))
        torch.testing.assert_close(layer.weight + layer.delta_weight(), base.weight)
        torch.testing.assert_close(layer.weight @ layer.A.mT, torch.zeros(5, 3), atol=1e-5, rtol=0)
        sigma = torch.linalg.svdvals(base.weight.detach())[:3]
        torch.testing.assert_close(layer.C.detach(), torch.diag(sigma) / (1 if alpha is None else alpha / 3))

    def test_the_largest_direction_comes_first(self) -> None:
        A, S, B = svd_start(thin_svd(torch.diag(torch.tensor([1.0, 3.0, 2.0]))), 2, 1.0)
        assert A.abs().tolist() == [[0, 1, 0], [0, 0, 1]]
        assert S.tolist() == [[3, 0], [0, 2]]
        assert B.mT.abs().tolist() == [[0, 1, 0], [0, 0, 1]]

    def test_the_start_of_the_released_code_leaves_the_base_weight_and_begins_with_b_at_0(self) -> None:
        method, base = lamda(init="lora"), backbone().model
        for name, layer in method.layers.items():
            assert torch.equal(layer.weight, base.get_submodule(name).weight)
            assert not layer.B.any()
        assert torch.equal(logits(method, batch()), base.eval()(**batch()).logits)


class TestHeldColumns:
    def test_adamw_with_momentum_and_decay_moves_the_others_alone(self) -> None:
        torch.manual_seed(0)
        matrices = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(4, 2))]
        held, optimizer = HeldColumns(matrices), torch.optim.AdamW(matrices, lr=0.1, weight_decay=0.1)
        for counts in ([0, 0], [1, 0], [1, 1], [2, 1]):
            before = [matrix.detach().clone() for matrix in matrices]
            for matrix in matrices:
                matrix.grad = torch.randn_like(matrix)
            held.hold(counts)
            optimizer.step()
            held.restore()
            for matrix, old, count in zip(matrices, before, counts, strict=True):
                assert torch.equal(matrix[:, :count], old[:, :count])
                assert (matrix[:, count:] != old[:, count:]).all()
                assert matrix.grad is not None
                assert not matrix.grad[:, :count].any()


class TestTraining:
    @pytest.mark.parametrize("init", ["svd", "lora"])
    def test_columns_stand_still_from_the_step_in_which_they_are_frozen(self, init: str) -> None:
        method = lamda(init=init)
        training = decaying_loop(method)
        # B trains in 5 of 10 steps: floor(4 i / 5)
        for step, frozen in enumerate([0, 0, 1, 2, 3, 4, 4, 4, 4, 4]):
            before = columns(method)
            training.run(StepClock("cpu"), lambda point: None, until=step + 1)
            for old, new in zip(before, columns(method), strict=True):
                assert torch.equal(old[:, :frozen], new[:, :frozen])
                moved = (old[:, frozen:] != new[:, frozen:]).any(0)
                assert moved.all() or step == 0, "the first step of warm-up has a learning rate of 0"

    def test_b_leaves_the_optimizer_and_s_trains_on(self) -> None:
        method = lamda()
        training = decaying_loop(method)
        training.run(StepClock("cpu"), lambda point: None, until=5)
        assert _held_by(method.optimizer) >= {id(layer.B) for layer in method.layers.values()}
        cores = [layer.C.detach().clone() for layer in method.layers.values()]
        training.run(StepClock("cpu"), lambda point: None, until=7)
        for layer, core in zip(method.layers.values(), cores, strict=True):
            assert id(layer.B) not in _held_by(method.optimizer)
            assert layer.B not in method.optimizer.state
            assert not layer.B.requires_grad
            assert not torch.equal(layer.C, core)

    def test_a_stays_bit_for_bit(self) -> None:
        method = lamda()
        before = [layer.A.clone() for layer in method.layers.values()]
        train(method)
        for layer, old in zip(method.layers.values(), before, strict=True):
            assert torch.equal(layer.A, old)
            assert not layer.A.requires_grad

    @pytest.mark.parametrize("stop", [3, 5, 6, 8], ids=["some frozen", "before the last", "just retired", "after"])
    @pytest.mark.parametrize("allocation", ["none", "spectrum"])
    def test_a_resumed_run_equals_an_uninterrupted_one(self, stop: int, allocation: str) -> None:
        whole, half, resumed = (lamda(rank_allocation=allocation) for _ in range(3))
        run(whole)
        state = run(half, until=stop).state_dict()
        rest = loop(resumed, STEPS)
        rest.load_state_dict(state)
        rest.run(StepClock("cpu"), lambda point: None)
        expected = whole.stored_tensors()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.stored_tensors().items())


class TestMethod:
    def test_roberta_base_has_the_worked_numbers_of_parameters(self) -> None:
        assert count_on_roberta_base("lamda", rank=32) == 73_728 + 2_654_208
        assert count_on_roberta_base("lamda_pp", rank=8) == sum(
            # four blocks at each rank: six square matrices, and columns of 5 * 768 + 3072
            4 * (6 * rank**2 + rank * (5 * 768 + 3072))
            for rank in (4, 8, 12)
        )

    def test_the_report_counts_what_trains_at_the_start_at_the_end_and_on_average(self) -> None:
        report = lamda(targets=["ffn.up"]).report()
        core, b = 2 * RANK**2, 2 * 128 * RANK
        assert report["trainable_parameters_at_start"] == core + b
        assert report["trainable_parameters_at_end"] == core
        # 4, 4, 3, 2 and 1 of 4 columns train in the first five of ten steps
        assert report["mean_trainable_parameters"] == core + b * (4 + 4 + 3 + 2 + 1) / 4 / 10

    def test_lamda_pp_keeps_the_mean_rank_and_reports_every_layers(self) -> None:
        ranks = attached("lamda_pp").report()["rank"]
        assert len(ranks) == 12
        assert set(ranks.values()) == {8, 16, 24}
        assert sum(ranks.values()) == 12 * 16

    def test_an_adapter_does_not_depend_on_the_signs_that_another_machine_gives_singular_vectors(
        self, tmp_path: Path
    ) -> None:
        method, elsewhere = lamda(), lamda()
        run(method)
        method.save(tmp_path)
        for layer in _layers(elsewhere):
            layer.A.neg_()
            layer.B.data.neg_()
        elsewhere.load(tmp_path)
        assert torch.equal(logits(elsewhere, batch()), logits(method, batch()))

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"rank": 0}, "method.rank=0 must be a whole number of at least 1"),
            ({"alpha": 0}, "method.alpha=0 must be above 0"),
            ({"rank": 65}, "method.rank=65 is above the size of bert.*query .64"),
            ({"init": "pissa"}, "method.init=pissa is unknown.*Allowed: lora, svd"),
            ({"eta": 0.0}, "method.eta=0.0 must be above 0 and at most 1"),
            ({"dropout": -0.1}, "method.dropout=-0.1 must be at least 0 and below 1"),
            ({"rank_allocation": "spectral"}, "method.rank_allocation=spectral is unknown. Did you mean 'spectrum'"),
            ({"rank_allocation": "spectrum", "rank": 1}, "method.rank=1 has no half"),
            ({"rank_allocation": "spectrum", "rank": 48}, "method.rank=48 lets some layers have rank 72, above .*64"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("lamda", **settings).check(backbone().anatomy)


def _held_by(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}


def _layers(method: Lamda) -> list[CoreLinear]:
    return list(method.layers.values())
