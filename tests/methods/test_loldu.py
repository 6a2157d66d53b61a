"""LoLDU: the decomposition, its trained pivots and the adapter on disk, against hand-worked numbers and SciPy's LU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import SettingsError
from bench.training.loop import store_frozen_in
from methods.base import ADAPTER_FILE, trainable
from methods.loldu import INITIALISATIONS
from methods.parts.decomposed_linear import DiagonalLinear
from methods.parts.decompositions import initial_diagonal, ldu
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, method_named

SHAPES = [(5, 3), (4, 4), (3, 6)]


def layer_on(base: nn.Module, **settings: Any) -> DiagonalLinear:
    """The layer that the method makes of a linear layer."""
    method = method_named("loldu", **settings)
    part = type("Part", (), {"module": base})()
    return method.adapted(part)  # type: ignore[attr-defined]


class TestDecomposition:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_factors_are_unit_triangular_and_multiply_to_the_weight(self, shape: tuple[int, int]) -> None:
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        rows, L, d, U = ldu(weight)
        torch.testing.assert_close((L * d @ U)[rows], weight)
        assert torch.equal(L, L.tril())
        assert torch.equal(U, U.triu())
        assert L.diagonal().tolist() == [1.0] * min(shape)
        torch.testing.assert_close(U.diagonal(), torch.ones(min(shape)))

    def test_a_matrix_that_needs_a_row_exchange_by_hand(self) -> None:
        rows, L, d, U = ldu(torch.tensor([[0.0, 2.0], [4.0, 4.0]]))
        assert rows.tolist() == [1, 0]
        assert L.tolist() == [[1, 0], [0, 1]]
        assert d.tolist() == [4, 2]
        assert U.tolist() == [[1, 1], [0, 1]]

    def test_a_pivot_of_zero_is_replaced_and_the_product_stays(self) -> None:
        weight = torch.tensor([[0.0, 3.0], [0.0, 5.0]])
        rows, L, d, U = ldu(weight)
        assert d.tolist() == pytest.approx([1e-12, 5])
        assert U.isfinite().all()
        torch.testing.assert_close((L * d @ U)[rows], weight)

    def test_a_tiny_pivot_keeps_its_sign(self) -> None:
        assert ldu(torch.diag(torch.tensor([1.0, -1e-20]))).d.tolist() == pytest.approx([1, -1e-12])

    def test_starts_without_chance_by_hand(self) -> None:
        d = torch.tensor([1.0, -4.0])
        starts = {name: initial_diagonal(d, name).tolist() for name in ("lu", "constant", "ones", "zeros")}
        assert starts == {"lu": [1, -4], "constant": [-1.5, -1.5], "ones": [1, 1], "zeros": [0, 0]}

    def test_starts_by_chance_have_the_ranges_and_moments_of_their_names(self) -> None:
        torch.manual_seed(0)
        d = torch.tensor([-5.0, -1.0]).repeat(2000)  # mean -3, standard deviation 2
        uniform, symmetric = initial_diagonal(d, "uniform"), initial_diagonal(d, "s_uniform")
        assert (uniform.min().item(), uniform.max().item()) == pytest.approx((-1.5, 1.5), abs=0.01)
        assert (symmetric.min().item(), symmetric.max().item()) == pytest.approx((-1, 1), abs=0.01)
        normal, standard = initial_diagonal(d, "normal"), initial_diagonal(d, "s_normal")
        assert (normal.mean().item(), normal.std().item()) == pytest.approx((-3, 2), abs=0.1)
        assert (standard.mean().item(), standard.std().item()) == pytest.approx((0, 1), abs=0.1)


class TestLayer:
    @pytest.mark.parametrize("rank", [1, 2, None])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_its_weight_is_the_residual_plus_the_scaled_factors(self, shape: tuple[int, int], rank: int | None) -> None:
        torch.manual_seed(0)
        base = nn.Linear(shape[1], shape[0])
        layer = layer_on(copy.deepcopy(base), rank=rank, alpha=4)
        nn.init.normal_(layer.z)
        expected = _weight_after_scipy(base.weight, layer.z.detach(), scaling=4 / len(layer.z))
        hidden = torch.randn(7, shape[1])
        torch.testing.assert_close(layer(hidden), nn.functional.linear(hidden, expected, base.bias))
        torch.testing.assert_close(layer.merged().weight, expected)

    def test_the_gradient_of_a_pivot_is_the_weights_gradient_between_its_column_and_row(self) -> None:
        torch.manual_seed(0)
        base, hidden = nn.Linear(4, 4), torch.randn(3, 4)
        base(hidden).square().sum().backward()
        assert base.weight.grad is not None
        layer = layer_on(copy.deepcopy(base), rank=3, alpha=6)
        layer(hidden).square().sum().backward()
        expected = [2 * layer.left[:, i] @ base.weight.grad @ layer.right[i] for i in range(3)]
        torch.testing.assert_close(layer.z.grad, torch.stack(expected))

    def test_with_all_pivots_and_scale_1_the_pivots_times_two_double_the_weight(self) -> None:
        torch.manual_seed(0)
        layer = layer_on(nn.Linear(6, 4), rank=None, alpha=None)
        before = layer.weight.clone()
        layer.z.data *= 2
        torch.testing.assert_close(layer.merged().weight, 2 * before)

    @pytest.mark.parametrize(
        ("rank", "alpha", "scaling"), [(8, None, 1), (8, 4, 0.5), (768, 16, 0.25), (None, 1, 1 / 64)]
    )
    def test_the_scale_divides_by_the_rank_that_the_layer_has(
        self, rank: int | None, alpha: float | None, scaling: float
    ) -> None:
        assert layer_on(nn.Linear(64, 64), rank=rank, alpha=alpha).scaling == scaling


class TestMethod:
    def test_roberta_base_has_the_published_number_of_parameters(self) -> None:
        assert count_on_roberta_base("loldu") == 12 * 2 * 768 == 18_432
        assert count_on_roberta_base("loldu", rank=15) == 24 * 15

    def test_the_pivots_and_the_head_alone_train(self) -> None:
        names = [name for name, _ in trainable(attached("loldu").backbone.model)]
        assert len(names) == 4 + 2
        assert all(name.endswith(".z") or name.startswith("classifier.") for name in names)

    @pytest.mark.parametrize("initialisation", INITIALISATIONS)
    def test_starts_that_the_residual_is_built_from_are_the_base_model(self, initialisation: str) -> None:
        method = attached("loldu", initialisation=initialisation)
        base = backbone().model.eval()
        same = torch.equal(logits(method, batch()), base(**batch()).logits)
        assert same == method.identity_at_start == (initialisation in {"lu", "uniform", "normal", "constant"})

    @pytest.mark.parametrize("initialisation", ["uniform", "normal"])
    def test_a_residual_of_random_numbers_is_saved(self, initialisation: str, tmp_path: Path) -> None:
        method, other = (attached("loldu", initialisation=initialisation) for _ in range(2))
        for layer in method.layers.values():
            layer.z.data *= 2
        torch.manual_seed(7)
        for layer in other.layers.values():
            layer.start.uniform_()
        method.save(tmp_path)
        other.load(tmp_path)
        assert torch.equal(logits(other, batch()), logits(method, batch()))

    def test_it_starts_exactly_at_the_base_model_in_half_precision_too(self) -> None:
        method, base = attached("loldu"), backbone()
        for model in (method.backbone.model, base.model.requires_grad_(False)):
            store_frozen_in(model, "bf16")
        method.backbone.model.classifier.bfloat16()
        assert torch.equal(logits(method, batch()), base.model.eval()(**batch()).logits)

    def test_an_adapter_is_one_number_per_pivot_and_a_checksum_per_layer_beside_the_head(self, tmp_path: Path) -> None:
        attached("loldu", rank=5).save(tmp_path)
        sizes = {
            name: len(tensor) for name, tensor in load_file(tmp_path / ADAPTER_FILE).items() if "class" not in name
        }
        assert sorted(sizes.values()) == [4, 5, 5, 5, 5]

    def test_an_adapter_of_other_base_weights_is_refused(self, tmp_path: Path) -> None:
        attached("loldu").save(tmp_path)
        other = method_named("loldu")
        base = backbone()
        nn.init.normal_(base.model.bert.encoder.layer[1].attention.self.query.weight)
        other.attach(base, 8)
        with pytest.raises(ValueError, match="belongs to other base weights"):
            other.load(tmp_path)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"rank": 0}, "method.rank=0 must be a whole number of at least 1"),
            ({"rank": 2.5}, "method.rank=2.5 must be a whole number"),
            ({"alpha": 0}, "method.alpha=0 must be above 0"),
            ({"initialisation": "uniforn"}, "method.initialisation=uniforn is unknown. Did you mean 'uniform'"),
            ({"targets": ["norm.ffn"]}, "method.targets: bert.*LayerNorm is no linear layer"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("loldu", **settings).check(backbone().anatomy)


def _weight_after_scipy(weight: Tensor, z: Tensor, scaling: float) -> Tensor:
    """W - s P L_r diag(d_r) U_r + s P L_r diag(z) U_r, with SciPy's decomposition."""
    permutation, lower, upper = (torch.from_numpy(part) for part in scipy.linalg.lu(weight.detach().numpy()))
    d, rank = upper.diagonal()[: len(z)], len(z)
    left, right = (permutation @ lower)[:, :rank], upper[:rank] / d[:, None]
    return weight.detach() - scaling * left @ torch.diag(d) @ right + scaling * left @ torch.diag(z) @ right
