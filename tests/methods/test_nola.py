"""NOLA: bases from seeds, combinations of them and their gradients, against dense bases and the authors' recipe."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import SettingsError
from methods.base import ADAPTER_FILE, Method, trainable
from methods.parts import random_basis
from methods.parts.random_basis import SeededBasisLinear, bases, combination, seeded_combination, vit_bases
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, method_named

CPU = torch.device("cpu")
K, RANK, D = 6, 3, 64
SMALL: dict[str, Any] = {"num_basis": K, "rank": RANK}


def nola(**changes: Any) -> Method:
    return attached("nola", **(SMALL | changes))


def with_other_seeds(**changes: Any) -> Method:
    """Attached to the same model after another draw of seeds."""
    method, base = method_named("nola", **(SMALL | changes)), backbone()
    torch.manual_seed(99)
    method.attach(base, 8)
    return method


def perturbed(method: Method) -> Method:
    """All trainable tensors far from their start."""
    torch.manual_seed(2)
    for _, parameter in trainable(method.backbone.model):
        nn.init.normal_(parameter, std=0.3)
    return method


def first_layer(method: Method) -> SeededBasisLinear:
    return next(iter(method.layers.values()))


def authors_bases(seed: int, *shape: int) -> Tensor:
    """U(-1, 1) / sqrt(count) from torch's global stream, as the authors' `GenerateParams` fills it."""
    torch.manual_seed(seed)
    return nn.init.uniform_(torch.zeros(shape), -1.0, 1.0) / math.sqrt(shape[0])


def authors_factors(layer: SeededBasisLinear, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """A and B from dense bases."""
    of_A0, of_P, of_Q, _ = layer.origin.tolist()
    torch.manual_seed(of_A0)
    A0 = nn.init.kaiming_uniform_(torch.empty(RANK, D), a=math.sqrt(5))
    A = A0 + torch.einsum("b,boi->oi", a, authors_bases(of_P, K, RANK, D))
    return A, torch.einsum("b,boi->oi", c, authors_bases(of_Q, K, D, RANK))


class TestCombination:
    def test_the_bases_of_a_seed_are_one_tensor_filled_in_one_call(self) -> None:
        torch.testing.assert_close(bases(7, 5, (2, 3), CPU) / math.sqrt(5), authors_bases(7, 5, 2, 3))

    @pytest.mark.parametrize("numbers_at_once", [1, 13, 2**22])
    def test_drawn_in_chunks_or_kept_they_give_one_sum_and_one_gradient(
        self, numbers_at_once: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dense = bases(7, 5, (2, 3), CPU)
        coefficients = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], requires_grad=True)
        weights = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 4.0]])
        expected = sum(one * basis for one, basis in zip(coefficients.tolist(), dense, strict=True))
        monkeypatch.setattr(random_basis, "CHUNK_NUMBERS", numbers_at_once)
        for combined in (seeded_combination(coefficients, 7, (2, 3), CPU), combination(coefficients, dense)):
            torch.testing.assert_close(combined, expected)
            (gradient,) = torch.autograd.grad((combined * weights).sum(), coefficients)
            torch.testing.assert_close(gradient, torch.stack([(basis * weights).sum() for basis in dense]))

    def test_autocast_leaves_both_passes_in_float32(self) -> None:
        coefficients = torch.randn(5, requires_grad=True)
        exact = seeded_combination(coefficients, 7, (2, 3), CPU)
        (of_exact,) = torch.autograd.grad(exact.square().sum(), coefficients)
        dense = bases(7, 5, (2, 3), CPU)
        with torch.autocast("cpu", torch.bfloat16):
            both = seeded_combination(coefficients, 7, (2, 3), CPU), combination(coefficients, dense)
        for combined in both:
            (gradient,) = torch.autograd.grad(combined.square().sum(), coefficients)
            torch.testing.assert_close(combined, exact, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(gradient, of_exact, rtol=1e-5, atol=1e-6)

    def test_nothing_is_drawn_from_the_global_stream(self) -> None:
        method = nola()
        before = torch.get_rng_state()
        loss, _ = method.compute_loss(method.backbone.model.eval(), batch())
        loss.backward()
        assert torch.equal(torch.get_rng_state(), before)


class TestLayer:
    @pytest.mark.parametrize("keep_bases", [False, True])
    def test_output_and_gradients_are_those_of_dense_bases(self, keep_bases: bool) -> None:
        layer = first_layer(perturbed(nola(keep_bases=keep_bases)))
        a, c = (tensor.detach().clone().requires_grad_() for tensor in (layer.a, layer.c))
        A, B = authors_factors(layer, a, c)
        torch.manual_seed(5)
        hidden = torch.randn(7, D)
        expected = layer.base(hidden) + 8 / RANK * hidden @ A.T @ B.T
        output = layer(hidden)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
        wanted = torch.autograd.grad(expected.square().sum(), (a, c))
        found = torch.autograd.grad(output.square().sum(), (layer.a, layer.c))
        for gradient, reference in zip(found, wanted, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4)

    def test_bases_do_not_drift(self) -> None:
        method = perturbed(nola())
        assert torch.equal(logits(method, batch()), logits(method, batch()))

    def test_kept_bases_are_those_that_the_seeds_give(self) -> None:
        drawn, kept = perturbed(nola()), perturbed(nola(keep_bases=True))
        torch.testing.assert_close(logits(kept, batch()), logits(drawn, batch()))
        assert {name.rsplit(".", 1)[-1] for name, _ in drawn.backbone.model.named_buffers()} >= {"A0", "origin"}
        assert not any(name.endswith((".P", ".Q")) for name, _ in drawn.backbone.model.named_buffers())

    def test_every_factor_of_every_layer_has_a_seed_of_its_own(self) -> None:
        seeds = [seed for layer in nola().layers.values() for seed in layer.origin[:3].tolist()]
        assert len(set(seeds)) == 4 * 3
        assert all(0 <= seed < 10**10 for seed in seeds)

    def test_seeds_stay_whole_numbers_on_the_cpu_wherever_the_layer_goes(self) -> None:
        layer = first_layer(nola())
        seeds = layer.origin.clone()
        moved = copy.deepcopy(layer).half().to("meta")
        assert moved.a.device.type == "meta"
        assert moved.origin.device == CPU
        assert torch.equal(moved.origin, seeds)

    def test_the_first_pass_decides_which_kind_of_device_draws(self) -> None:
        layer, kept = first_layer(nola()), first_layer(nola(keep_bases=True))
        assert layer.origin[3] == random_basis.UNDECIDED
        layer(torch.randn(2, D))
        assert layer.origin[3] == kept.origin[3] == random_basis.DRAWING_DEVICES.index("cpu")


class TestMethod:
    @pytest.mark.parametrize("rank", [1, 8, 64])
    def test_parameters_are_the_coefficients_whatever_the_rank(self, rank: int) -> None:
        assert count_on_roberta_base("nola", rank=rank) == 24 * 2 * 512 == 24_576

    def test_only_two_vectors_a_layer_train_and_they_are_not_decayed(self) -> None:
        method = nola()
        own = {name: tensor for name, tensor in trainable(method.backbone.model) if "classifier" not in name}
        assert {(name[-2:], tensor.shape) for name, tensor in own.items()} == {(".a", (K,)), (".c", (K,))}
        assert len(own) == 4 * 2
        decayed = [
            id(p) for group in method.parameter_groups(1e-3, 0.1) if group["weight_decay"] for p in group["params"]
        ]
        assert not {id(tensor) for tensor in own.values()} & set(decayed)

    def test_the_first_gradient_reaches_c_alone(self) -> None:
        method = nola()
        loss, _ = method.compute_loss(method.backbone.model.eval(), batch())
        loss.backward()
        for layer in method.layers.values():
            assert not layer.a.grad.any()
            assert layer.c.grad.all()

    @pytest.mark.parametrize("saved_kept", [False, True])
    @pytest.mark.parametrize("loaded_kept", [False, True])
    def test_coefficients_and_seeds_are_all_that_a_saved_adapter_needs(
        self, saved_kept: bool, loaded_kept: bool, tmp_path: Path
    ) -> None:
        method = perturbed(nola(keep_bases=saved_kept))
        expected = logits(method, batch())
        method.save(tmp_path)
        numbers = {name: tensor.numel() for name, tensor in load_file(tmp_path / ADAPTER_FILE).items()}
        assert sum(count for name, count in numbers.items() if "classifier" not in name) == 4 * (2 * K + 4)
        again = with_other_seeds(keep_bases=loaded_kept)
        assert not torch.equal(first_layer(again).A0, first_layer(method).A0)
        again.load(tmp_path)
        torch.testing.assert_close(logits(again, batch()), expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"variant": "vitt"}, "method.variant=vitt is unknown. Did you mean 'vit'. Allowed: lm, vit."),
            ({"num_basis": 0}, "method.num_basis=0 must be a whole number of at least 1"),
            ({"num_basis": 1.5}, "method.num_basis=1.5 must be a whole number of at least 1"),
            ({"rank": 65}, "method.rank=65 is above the size of bert.*query .64"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, changes: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("nola", **changes).check(backbone().anatomy)


class TestVit:
    def test_bases_are_those_of_the_authors_class_in_our_layout(self) -> None:
        held = vit_bases(5, 2, 4, 3)
        torch.manual_seed(0)
        A = nn.init.kaiming_uniform_(torch.zeros(5, 4, 2), a=math.sqrt(5))
        B = nn.init.kaiming_uniform_(torch.zeros(5, 2, 3), a=math.sqrt(5))
        torch.testing.assert_close(held.P, A.mT)
        torch.testing.assert_close(held.Q, B.mT)

    def test_layers_of_one_shape_share_their_bases_wherever_the_model_goes(self) -> None:
        method = nola(variant="vit")
        moved = copy.deepcopy(method.backbone.model).to("meta")
        assert sum(name.endswith((".P", ".Q")) for name, _ in moved.named_buffers()) == 2

    def test_it_starts_at_the_mean_of_the_bases_with_a_scale_of_one_over_rank(self) -> None:
        method = nola(variant="vit")
        assert not method.identity_at_start
        layer, hidden = first_layer(method), torch.randn(7, D)
        held = vit_bases(K, RANK, D, D)
        expected = layer.base(hidden) + hidden @ held.P.mean(0).T @ held.Q.mean(0).T / RANK
        torch.testing.assert_close(layer(hidden), expected)

    def test_a_saved_adapter_holds_the_coefficients_alone(self, tmp_path: Path) -> None:
        method = perturbed(nola(variant="vit"))
        expected = logits(method, batch())
        method.save(tmp_path)
        names = load_file(tmp_path / ADAPTER_FILE).keys()
        assert {name[-2:] for name in names if "classifier" not in name} == {".a", ".c"}
        again = with_other_seeds(variant="vit")
        again.load(tmp_path)
        assert torch.equal(logits(again, batch()), expected)
        again.finish()
        torch.testing.assert_close(logits(again, batch()), expected, rtol=1e-4, atol=1e-4)
