"""SVFit: truncated decompositions, their trained singular values and the share of energy, against worked numbers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import SettingsError
from methods.base import trainable
from methods.parts.decomposed_linear import DiagonalLinear
from methods.parts.decompositions import rank_of_energy, thin_svd
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, method_named, train


def layer_on(base: nn.Module, **settings: Any) -> DiagonalLinear:
    """The layer that the method makes of a linear layer."""
    part = type("Part", (), {"module": base})()
    return method_named("svfit", **settings).adapted(part)  # type: ignore[attr-defined]


class TestDecomposition:
    @pytest.mark.parametrize("shape", [(5, 3), (4, 4), (3, 6)])
    def test_the_residual_is_orthogonal_to_what_trains(self, shape: tuple[int, int]) -> None:
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        U, sigma, Vt = thin_svd(weight).truncated(2)
        residual = weight - U * sigma @ Vt
        torch.testing.assert_close(residual @ Vt.mT, torch.zeros(shape[0], 2), atol=1e-5, rtol=0)
        torch.testing.assert_close(U.mT @ residual, torch.zeros(2, shape[1]), atol=1e-5, rtol=0)

    def test_all_triplets_leave_no_residual(self) -> None:
        weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
        U, sigma, Vt = thin_svd(weight).truncated(3)
        torch.testing.assert_close(U * sigma @ Vt, weight)

    def test_the_signs_do_not_depend_on_those_of_the_library(self) -> None:
        weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
        U, _, Vt = thin_svd(weight)
        assert all(column[column.abs().argmax()] > 0 for column in U.mT)
        torch.testing.assert_close(thin_svd(-weight).U, U)
        torch.testing.assert_close(thin_svd(-weight).Vt, -Vt)

    @pytest.mark.parametrize(
        ("energy", "rank"),
        # squares 9, 4, 1 of 14: shares 0.643, 0.929, 1
        [(0.5, 1), (0.64, 1), (0.65, 2), (0.92, 2), (0.93, 3), (1.0, 3)],
    )
    def test_the_smallest_rank_that_holds_a_share_of_the_squares(self, energy: float, rank: int) -> None:
        assert rank_of_energy(torch.tensor([3.0, 2.0, 1.0]), energy) == rank

    def test_rounding_never_asks_for_more_values_than_there_are(self) -> None:
        assert all(
            rank_of_energy(torch.rand(50, generator=torch.Generator().manual_seed(i)), 1.0) <= 50 for i in range(50)
        )


class TestLayer:
    @pytest.mark.parametrize("rank", [1, 3, None])
    def test_its_weight_is_the_residual_plus_the_trained_values_between_the_vectors(self, rank: int | None) -> None:
        torch.manual_seed(0)
        base = nn.Linear(6, 4)
        layer = layer_on(copy.deepcopy(base), rank=rank)
        nn.init.normal_(layer.z)
        weight = base.weight.detach().double().numpy()
        U, sigma, Vt = np.linalg.svd(weight, full_matrices=False)
        sigma[: len(layer.z)] = layer.z.detach().numpy()
        expected = torch.from_numpy(U * sigma @ Vt).float()
        hidden = torch.randn(7, 6)
        torch.testing.assert_close(layer(hidden), nn.functional.linear(hidden, expected, base.bias))
        torch.testing.assert_close(layer.merged().weight, expected)

    def test_the_gradient_of_a_value_is_the_weights_gradient_between_its_vectors(self) -> None:
        torch.manual_seed(0)
        base, hidden = nn.Linear(4, 5), torch.randn(3, 4)
        base(hidden).square().sum().backward()
        assert base.weight.grad is not None
        layer = layer_on(copy.deepcopy(base), rank=2)
        layer(hidden).square().sum().backward()
        expected = [layer.left[:, i] @ base.weight.grad @ layer.right[i] for i in range(2)]
        torch.testing.assert_close(layer.z.grad, torch.stack(expected))

    def test_the_signs_of_singular_vectors_do_not_matter(self) -> None:
        torch.manual_seed(0)
        layer, hidden = layer_on(nn.Linear(4, 5), rank=3), torch.randn(3, 4)
        nn.init.normal_(layer.z)
        mirrored = copy.deepcopy(layer)
        mirrored.left[:, 1] *= -1
        mirrored.right[1] *= -1
        torch.testing.assert_close(mirrored(hidden), layer(hidden))


class TestMethod:
    def test_roberta_base_has_the_published_number_of_parameters(self) -> None:
        assert count_on_roberta_base("svfit") == 294_912 / 16, "16 times fewer than LoRA of rank 8"
        assert count_on_roberta_base("svfit", rank=32) == 768

    def test_the_singular_values_and_the_head_alone_train(self) -> None:
        names = [name for name, _ in trainable(attached("svfit").backbone.model)]
        assert len(names) == 4 + 2
        assert all(name.endswith(".z") or name.startswith("classifier.") for name in names)

    def test_it_starts_exactly_at_the_base_model(self) -> None:
        assert torch.equal(logits(attached("svfit"), batch()), backbone().model.eval()(**batch()).logits)

    def test_singular_values_are_not_decayed(self) -> None:
        method = attached("svfit")
        values = {id(layer.z) for layer in method.layers.values()}  # type: ignore[attr-defined]
        decays = {
            group["weight_decay"]
            for group in method.parameter_groups(1e-3, 0.1)
            for tensor in group["params"]
            if id(tensor) in values
        }
        assert decays == {0.0}

    def test_training_leaves_the_singular_vectors_orthonormal(self) -> None:
        method = attached("svfit", rank=7)
        train(method)
        for layer in method.layers.values():  # type: ignore[attr-defined]
            torch.testing.assert_close(layer.left.mT @ layer.left, torch.eye(7))
            torch.testing.assert_close(layer.right @ layer.right.mT, torch.eye(7))

    def test_with_energy_every_layer_has_the_rank_that_its_spectrum_asks_for(self) -> None:
        method, base = method_named("svfit", rank=10, energy=0.9), backbone()
        spectra = {"query": [3.0, 1.0], "value": [1.0] * 64}  # 9 of 10; 58 of 64 would do
        for name, spectrum in spectra.items():
            weight = torch.zeros(64, 64)
            weight.diagonal()[: len(spectrum)] = torch.tensor(spectrum)
            for block in base.model.bert.encoder.layer:
                getattr(block.attention.self, name).weight.data = weight.clone()
        method.attach(base, 8)
        ranks = {name.rpartition(".")[2]: rank for name, rank in method.report()["rank"].items()}
        assert ranks == {"query": 1, "value": 10}

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"rank": 0}, "method.rank=0 must be a whole number of at least 1"),
            ({"energy": 0.0}, "method.energy=0.0 must be above 0 and at most 1"),
            ({"energy": 99}, "method.energy=99 must be above 0 and at most 1"),
            ({"targets": ["norm.ffn"]}, "method.targets: bert.*LayerNorm is no linear layer"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("svfit", **settings).check(backbone().anatomy)
