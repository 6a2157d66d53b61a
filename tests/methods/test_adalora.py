"""AdaLoRA: schedule, importance, masks and the two forms of the model, against hand-worked numbers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from bench.backbone.anatomy import Anatomy
from bench.backbone.pretrained import Backbone
from bench.backbone.projections import take_apart
from bench.errors import SettingsError
from methods.adalora import AdaLora, Schedule
from methods.base import trainable
from methods.parts.svd_linear import SVDLinear
from methods.parts.triplets import TripletImportance, keep_mask, mean_orthogonality, orthogonality, update_importance

SIX = ["attention.query", "attention.key", "attention.value", "attention.output", "ffn.up", "ffn.down"]
STEPS = 24
PHASES = {"init_warmup": 3, "final_warmup": 8, "mask_interval": 2}


def tiny_model(family: str = "bert") -> Any:
    """Two layers of width 32, always the same weights."""
    torch.manual_seed(0)
    if family == "gpt2":
        config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, pad_token_id=0)
        model = GPT2ForSequenceClassification(config)
        take_apart(model)
        return model
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    return BertForSequenceClassification(config)


def adalora(**settings: Any) -> AdaLora:
    defaults: dict[str, Any] = {"rank": 2, "initial_rank": 4, "alpha": 16, "dropout": 0.0, "targets": SIX, **PHASES}
    defaults |= {"orthogonality_weight": 0.1, "beta1": 0.85, "beta2": 0.85}
    return AdaLora(learning_rate=1e-2, **(defaults | settings))


def attached(model: Any = None, steps: int = STEPS, **settings: Any) -> AdaLora:
    method = adalora(**settings)
    model = tiny_model() if model is None else model
    backbone = Backbone(model=model, preprocessor=None, anatomy=Anatomy(model, model.config.model_type), source="test")
    method.check(backbone.anatomy)
    torch.manual_seed(1)
    method.attach(backbone, total_steps=steps)
    return method


def batch(step: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(1, 50, (8, 6), generator=torch.Generator().manual_seed(step))
    return {"input_ids": ids, "labels": (ids[:, 0] < 25).long()}


def logits(method: AdaLora) -> Tensor:
    model = method.backbone.model.eval()
    with torch.no_grad():
        return model(input_ids=batch()["input_ids"]).logits


def optimizer_of(method: AdaLora) -> torch.optim.Optimizer:
    return torch.optim.AdamW(method.parameter_groups(method.learning_rate, 0.01))


def train(method: AdaLora, steps: Iterable[int], optimizer: torch.optim.Optimizer | None = None) -> list[list[bool]]:
    """Train without dropout; returns which entries of E are non-zero after each step."""
    optimizer = optimizer_of(method) if optimizer is None else optimizer
    parameters = [parameter for _, parameter in trainable(method.backbone.model)]
    history = []
    for step in steps:
        loss, _ = method.compute_loss(method.backbone.model.eval(), batch(step))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        method.after_step(step)
        optimizer.zero_grad()
        history.append([bool(entry) for layer in method.layers.values() for entry in layer.E.flatten()])
    return history


def perturbed(method: AdaLora) -> AdaLora:
    """All trainable tensors far from their start."""
    torch.manual_seed(2)
    for _, parameter in trainable(method.backbone.model):
        nn.init.normal_(parameter, std=0.3)
    return method


def svd_layer(base: nn.Module | None = None, rank: int = 2, dropout: float = 0.0) -> SVDLinear:
    return SVDLinear(nn.Linear(3, 2) if base is None else base, rank, alpha=16, dropout=dropout)


class TestSchedule:
    schedule = Schedule(total_steps=100, init_warmup=10, final_warmup=40, mask_interval=5)

    @pytest.mark.parametrize(
        ("step", "budget"),
        # 24 + 24 * (1 - (step - 10) / 50)^3, cut to a whole number
        [(0, 48), (10, 48), (11, 46), (35, 27), (40, 25), (59, 24), (60, 24), (99, 24)],
    )
    def test_budget_falls_with_the_third_power(self, step: int, budget: int) -> None:
        assert self.schedule.budget(step, initial=48, final=24) == budget

    def test_budget_never_rises(self) -> None:
        budgets = [self.schedule.budget(step, 1728, 1152) for step in range(100)]
        assert budgets == sorted(budgets, reverse=True)

    def test_masks_fall_on_the_interval_until_the_final_phase_and_then_on_every_step(self) -> None:
        masked = [step for step in range(100) if self.schedule.masks_at(step)]
        assert masked == [15, 20, 25, 30, 35, 40, 45, 50, 55, 60, *range(61, 100)]

    def test_the_last_step_before_the_final_phase_masks_only_on_the_interval(self) -> None:
        assert not Schedule(100, 10, 41, 5).masks_at(59)

    def test_importance_is_frozen_from_the_final_phase_on(self) -> None:
        assert [step for step in range(100) if self.schedule.scores_at(step)] == list(range(60))

    def test_phases_scale_with_the_run_by_default(self) -> None:
        assert Schedule.of_run(300, None, None, None) == Schedule(300, 39, 141, 1)
        assert Schedule.of_run(50_000, None, None, None) == Schedule(50_000, 6_500, 23_500, 100)

    def test_phases_given_in_steps_are_kept(self) -> None:
        assert Schedule.of_run(300, 5, 7, 11) == Schedule(300, 5, 7, 11)

    def test_the_defaults_fit_runs_of_any_length(self) -> None:
        for steps in range(1, 500):
            schedule = Schedule.of_run(steps, None, None, None)
            assert schedule.init_warmup + schedule.final_warmup < steps

    def test_phases_that_fill_the_run_are_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"method.init_warmup=60 and method.final_warmup=40 .* 100 steps"):
            Schedule.of_run(100, 60, 40, None)


class TestImportance:
    def test_averages_of_two_steps_by_hand(self) -> None:
        sensitivity, uncertainty = torch.zeros(1), torch.zeros(1)
        update_importance(sensitivity, uncertainty, torch.tensor([2.0]), torch.tensor([-3.0]), 0.85, 0.85)
        torch.testing.assert_close(sensitivity, torch.tensor([0.9]))  # 0.15 * 6
        torch.testing.assert_close(uncertainty, torch.tensor([0.765]))  # 0.15 * |6 - 0.9|
        update_importance(sensitivity, uncertainty, torch.tensor([1.0]), torch.tensor([1.0]), 0.85, 0.85)
        torch.testing.assert_close(sensitivity, torch.tensor([0.915]))  # 0.85 * 0.9 + 0.15 * 1
        torch.testing.assert_close(uncertainty, torch.tensor([0.663]))  # 0.85 * 0.765 + 0.15 * |1 - 0.915|

    def test_a_triplet_scores_its_singular_value_plus_the_means_of_its_vectors(self) -> None:
        layer = svd_layer(nn.Linear(2, 3), rank=1)
        for tensor, weight, gradient in (
            (layer.E, [[0.5]], [[2.0]]),  # I = 1
            (layer.A, [[1.0, 2.0]], [[3.0, 1.0]]),  # I = 3, 2
            (layer.B, [[1.0], [-1.0], [2.0]], [[1.0], [2.0], [0.0]]),  # I = 1, 2, 0
        ):
            tensor.data, tensor.grad = torch.tensor(weight), torch.tensor(gradient)
        importance = TripletImportance([layer], 0.85, 0.85)
        importance.update()
        # After one step s = 0.15 I * 0.15 * 0.85 I = 0.019125 I^2; mean I^2 is 1, 13/2 and 5/3.
        torch.testing.assert_close(importance.scores(), torch.tensor([[0.019125 * (1 + 6.5 + 5 / 3)]]))

    def test_layers_of_different_shapes_keep_their_own_scores(self) -> None:
        torch.manual_seed(0)
        shapes = [(5, 3), (3, 5), (4, 4), (5, 3), (2, 7)]
        layers = [svd_layer(nn.Linear(*shape)) for shape in shapes]
        together = TripletImportance(layers, 0.85, 0.9)
        alone = [TripletImportance([layer], 0.85, 0.9) for layer in layers]
        for _ in range(3):
            for layer in layers:
                for tensor in (layer.E, layer.A, layer.B):
                    tensor.data, tensor.grad = torch.randn_like(tensor), torch.randn_like(tensor)
            for importance in (together, *alone):
                importance.update()
        torch.testing.assert_close(together.scores(), torch.cat([importance.scores() for importance in alone]))

    def test_a_step_with_overflowing_gradients_does_not_spoil_the_averages(self) -> None:
        layer = svd_layer()
        importance = TripletImportance([layer], 0.85, 0.85)
        for tensor in (layer.E, layer.A, layer.B):
            tensor.grad = torch.full_like(tensor, torch.inf)
        importance.update()
        assert importance.scores().isfinite().all()


class TestMask:
    def test_the_lowest_scores_over_all_layers_go(self) -> None:
        scores = torch.tensor([[0.1, 0.4], [0.3, 0.2]])
        assert keep_mask(scores, budget=2).tolist() == [[False, True], [True, False]]

    def test_scores_tied_with_the_threshold_go_too(self) -> None:
        assert keep_mask(torch.tensor([[1.0, 1.0, 2.0, 3.0]]), budget=3).tolist() == [[False, False, True, True]]

    def test_a_budget_of_everything_keeps_everything(self) -> None:
        assert keep_mask(torch.zeros(2, 2), budget=4).all()


class TestOrthogonality:
    def test_orthonormal_rows_cost_nothing_and_have_a_finite_gradient(self) -> None:
        stack = torch.eye(3, 5).unsqueeze(0).requires_grad_()
        value = orthogonality(stack)
        value.sum().backward()
        assert value.item() == 0
        assert stack.grad is not None
        assert stack.grad.isfinite().all()

    def test_the_norm_is_not_squared_and_each_matrix_has_its_own(self) -> None:
        stack = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
        # G G^T - I is diag(3, 0) and diag(-1, -1)
        torch.testing.assert_close(orthogonality(stack), torch.tensor([3.0, 2**0.5]))

    def test_the_penalty_is_the_mean_over_all_matrices_of_all_layers(self) -> None:
        layers = [svd_layer(nn.Linear(4, 3)), svd_layer(nn.Linear(3, 6))]
        for layer in layers:
            nn.init.orthogonal_(layer.A)
            nn.init.orthogonal_(layer.B)
        layers[0].A.data *= 2  # A A^T - I = 3 I with norm 3 sqrt(2)
        torch.testing.assert_close(mean_orthogonality(layers), torch.tensor(3 * 2**0.5 / 4))

    def test_the_loss_contains_it_and_the_reported_task_loss_does_not(self) -> None:
        method = attached()
        model = method.backbone.model.eval()
        loss, task_loss = method.compute_loss(model, batch())
        torch.testing.assert_close(task_loss, model(**batch()).loss)
        torch.testing.assert_close(loss - task_loss, 0.1 * mean_orthogonality(list(method.layers.values())))


class TestLayer:
    def test_output_by_hand(self) -> None:
        layer = svd_layer(nn.Linear(2, 2, bias=False), rank=1)
        tensors = {"base.weight": [[1.0, 0.0], [0.0, 1.0]], "A": [[1.0, 2.0]], "E": [[0.5]], "B": [[1.0], [-1.0]]}
        for name, value in tensors.items():
            layer.get_parameter(name).data = torch.tensor(value)
        # A x = 11, times E is 5.5, times alpha / (rank + 1e-5) = 16 / 1.00001
        update = 5.5 * 16 / 1.00001
        torch.testing.assert_close(layer(torch.tensor([3.0, 4.0])), torch.tensor([3 + update, 4 - update]))

    def test_merging_keeps_the_output_and_returns_the_base_layer(self) -> None:
        base = nn.Linear(3, 5)
        layer = svd_layer(base)
        nn.init.normal_(layer.E)
        hidden = torch.randn(4, 3)
        expected = layer(hidden)
        merged = layer.merged()
        assert merged is base
        torch.testing.assert_close(merged(hidden), expected)

    def test_dropout_touches_the_update_alone_and_only_in_training(self) -> None:
        layer, hidden = svd_layer(dropout=0.5), torch.randn(64, 3)
        assert torch.equal(layer.train()(hidden), layer.base(hidden))
        nn.init.ones_(layer.E)
        assert not torch.equal(layer(hidden), layer(hidden))
        assert torch.equal(layer.eval()(hidden), layer(hidden))

    def test_adapter_tensors_stay_float32_on_a_half_precision_layer(self) -> None:
        layer = svd_layer(nn.Linear(3, 2, dtype=torch.bfloat16))
        assert {layer.A.dtype, layer.E.dtype, layer.B.dtype} == {torch.float32}
        assert layer(torch.randn(4, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert layer.merged().weight.dtype == torch.bfloat16


class TestMethod:
    @pytest.mark.parametrize(
        ("rank", "initial_rank", "expected"), [(8, 12, 1_991_520), (2, 3, 497_880), (1, 2, 331_920)]
    )
    def test_roberta_base_has_the_published_number_of_parameters(
        self, rank: int, initial_rank: int, expected: int
    ) -> None:
        with torch.device("meta"):
            model = RobertaForSequenceClassification(RobertaConfig())
        method = attached(model, rank=rank, initial_rank=None)
        assert method.initial_rank == initial_rank
        is_head = method.backbone.anatomy.is_head
        assert sum(tensor.numel() for name, tensor in trainable(model) if not is_head(name)) == expected

    @pytest.mark.parametrize("family", ["bert", "gpt2"])
    def test_it_starts_exactly_at_the_base_model(self, family: str) -> None:
        method = attached(tiny_model(family))
        base = tiny_model(family).eval()
        with torch.no_grad():
            assert torch.equal(logits(method), base(input_ids=batch()["input_ids"]).logits)

    def test_the_first_task_gradient_reaches_the_singular_values_alone(self) -> None:
        method = attached()
        method.backbone.model.eval()(**batch()).loss.backward()
        for layer in method.layers.values():
            assert layer.E.grad is not None
            assert layer.E.grad.any()
            assert layer.A.grad is not None
            assert not layer.A.grad.any()

    def test_only_the_updates_and_the_head_train(self) -> None:
        names = [name for name, _ in trainable(attached().backbone.model)]
        assert all(name[-2:] in (".A", ".E", ".B") or name.startswith("classifier.") for name in names)
        assert len(names) == 12 * 3 + 2

    def test_the_budget_is_met_and_its_pattern_is_fixed_in_the_final_phase(self) -> None:
        history = train(attached(), range(STEPS))
        assert all(all(step) for step in history[:4]), "nothing is masked in the first phase"
        final = history[STEPS - PHASES["final_warmup"] + 1 :]
        assert all(step == final[0] for step in final)
        assert sum(final[0]) == 2 * 12

    def test_a_masked_singular_value_may_come_back_before_the_final_phase(self) -> None:
        history = train(attached(), range(9))
        assert not all(history[8])
        assert all(history[7]), "step 6 masked, step 7 did not"

    def test_the_report_counts_what_the_mask_has_left(self) -> None:
        method = attached(targets=["attention.query", "ffn.up"])
        layers = list(method.layers.values())
        for layer in layers:
            nn.init.ones_(layer.E)
        layers[0].E.data[:3] = 0
        layers[1].E.data[2] = 0
        # The query layers are 32 x 32, the feed-forward ones 32 x 64: 65 and 97 parameters per triplet.
        report = method.report()
        assert [name.split(".")[-1] for name in report["ranks"]] == ["query", "dense", "query", "dense"]
        assert list(report["ranks"].values()) == [1, 3, 4, 4]
        assert (report["total_rank"], report["parameters_left"]) == (12, 5 * 65 + 7 * 97)

    def test_equal_initial_and_final_rank_mask_nothing(self) -> None:
        assert all(all(step) for step in train(attached(rank=4), range(STEPS)))

    def test_scores_use_the_new_weights_and_this_steps_gradients(self) -> None:
        method = attached()
        reference = _Reference(list(method.layers.values()))
        optimizer = optimizer_of(method)
        for step in range(3):
            loss, _ = method.compute_loss(method.backbone.model.eval(), batch(step))
            loss.backward()
            optimizer.step()
            method.after_step(step)
            reference.update()
            optimizer.zero_grad()
        torch.testing.assert_close(method.importance.scores(), reference.scores())

    @pytest.mark.parametrize("family", ["bert", "gpt2"])
    def test_the_inference_form_is_the_base_architecture_with_the_same_logits(self, family: str) -> None:
        method = perturbed(attached(tiny_model(family)))
        expected = logits(method)
        method.finish()
        kinds = [(name, type(module)) for name, module in method.backbone.model.named_modules()]
        assert kinds == [(name, type(module)) for name, module in tiny_model(family).named_modules()]
        torch.testing.assert_close(logits(method), expected, rtol=1e-4, atol=1e-5)

    def test_a_saved_adapter_reproduces_the_logits(self, tmp_path: Path) -> None:
        method = attached()
        train(method, range(STEPS))
        method.save(tmp_path)
        again = attached()
        again.load(tmp_path)
        assert torch.equal(logits(again), logits(method))

    @pytest.mark.parametrize("stop", [2, 10, 20], ids=["first phase", "pruning", "final phase"])
    def test_a_resumed_run_equals_an_uninterrupted_one(self, stop: int) -> None:
        whole, half, resumed = attached(), attached(), attached()
        train(whole, range(STEPS))
        first = optimizer_of(half)
        train(half, range(stop), first)
        resumed.backbone.model.load_state_dict(half.backbone.model.state_dict())
        second = optimizer_of(resumed)
        second.load_state_dict(_stored(first.state_dict()))
        resumed.load_state_dict(_stored(half.state_dict()))
        train(resumed, range(stop, STEPS), second)
        assert _tensors(resumed) == _tensors(whole)

    def test_two_runs_are_bit_identical(self) -> None:
        first, second = attached(), attached()
        assert train(first, range(STEPS)) == train(second, range(STEPS))
        assert _tensors(first) == _tensors(second)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"initial_rank": 1}, "method.initial_rank=1 must be a whole number of at least method.rank=2"),
            ({"initial_rank": 2.5}, "method.initial_rank=2.5 must be a whole number"),
            ({"rank": 33, "initial_rank": None}, "method.initial_rank=50 is above the size of bert.*query .32"),
            ({"targets": ["norm.ffn"]}, "method.targets: bert.*LayerNorm is no linear layer but LayerNorm"),
            ({"targets": ["qery"]}, "method.targets: 'qery' matches no module. Did you mean 'query'"),
            ({"mask_interval": 0}, "method.mask_interval=0 must be a whole number of at least 1"),
            ({"init_warmup": -1}, "method.init_warmup=-1 must be a whole number of at least 0"),
            ({"beta2": 1.0}, "method.beta2=1.0 must be above 0 and below 1"),
            ({"orthogonality_weight": -0.1}, "method.orthogonality_weight=-0.1 must be at least 0"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            adalora(**settings).check(Anatomy(tiny_model(), "bert"))

    def test_phases_that_fill_the_run_are_refused_before_the_model_is_touched(self) -> None:
        model = tiny_model()
        with pytest.raises(SettingsError, match="init_warmup=3 and method"):
            attached(model, steps=11)
        assert not any(isinstance(module, SVDLinear) for module in model.modules())


class _Reference:
    """The importance of section 3.2 tensor by tensor, as the paper writes it."""

    def __init__(self, layers: Sequence[SVDLinear]) -> None:
        self.layers = layers
        self.averages = [[torch.zeros_like(t), torch.zeros_like(t)] for layer in layers for t in self._tensors(layer)]

    def update(self) -> None:
        tensors = [tensor for layer in self.layers for tensor in self._tensors(layer)]
        for average, tensor in zip(self.averages, tensors, strict=True):
            assert tensor.grad is not None
            importance = (tensor.detach() * tensor.grad).abs()
            average[0] = 0.85 * average[0] + 0.15 * importance
            average[1] = 0.85 * average[1] + 0.15 * (importance - average[0]).abs()

    def scores(self) -> Tensor:
        single = [sensitivity * uncertainty for sensitivity, uncertainty in self.averages]
        triplets = zip(single[0::3], single[1::3], single[2::3], strict=True)
        return torch.stack([e.flatten() + a.mean(dim=1) + b.mean(dim=0) for e, a, b in triplets])

    @staticmethod
    def _tensors(layer: SVDLinear) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
        return layer.E, layer.A, layer.B


def _stored(state: dict[str, Any]) -> dict[str, Any]:
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _tensors(method: AdaLora) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in method.stored_tensors().items()}
