"""TLoRA: shapes, transform, residuals and regularisers, against dense references and hand-made numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import SettingsError
from methods.parts.tensor_ring import (
    RESIDUALS,
    RingTransform,
    TransformedLinear,
    identity_distance,
    orthogonality_distance,
    ring_matrix,
    ring_product,
    transposed,
)
from methods.tlora import TLora, tensor_shape
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, method_named

CPU = torch.device("cpu")
SHAPE_IN, SHAPE_OUT = (2, 3, 4), (3, 2, 2)
WIDTH_IN, WIDTH_OUT = 24, 12


def entry(cores: Sequence[Tensor], indices: Sequence[tuple[int, ...]]) -> Tensor:
    """trace(A_1[indices_1] A_2[indices_2] ...)."""
    product = torch.eye(cores[0].shape[-1])
    for core, index in zip(cores, indices, strict=True):
        product = product @ core[index]
    return product.trace()


def matrix_by_entries(cores: Sequence[Tensor]) -> Tensor:
    """The tensor-ring matrix, one trace per entry; first index slowest."""
    rows = list(itertools.product(*(range(core.shape[0]) for core in cores)))
    columns = list(itertools.product(*(range(core.shape[1]) for core in cores)))
    entries = [entry(cores, list(zip(i, j, strict=True))) for i in rows for j in columns]
    return torch.stack(entries).view(len(rows), len(columns))


def random_cores(rows: Sequence[int], columns: Sequence[int], rank: int) -> list[Tensor]:
    return [torch.randn(i, j, rank, rank) for i, j in zip(rows, columns, strict=True)]


def layer(transform_rank: int = 1, residual: str = "lora") -> TransformedLinear:
    """24 inputs, 12 outputs, all trainable tensors far from their start."""
    base = nn.Linear(WIDTH_IN, WIDTH_OUT)
    made = TransformedLinear(base, SHAPE_IN, SHAPE_OUT, transform_rank, residual, rank=2, scaling=0.5)
    for name, parameter in made.named_parameters():
        if not name.startswith("base."):
            nn.init.normal_(parameter, std=0.5)
    return made


class TestShapes:
    @pytest.mark.parametrize(
        ("width", "shape"),
        [
            (320, (4, 8, 10)),
            (640, (8, 8, 10)),
            (768, (8, 8, 12)),
            (1280, (8, 10, 16)),
            (2048, (8, 16, 16)),
            (1024, (8, 8, 16)),
            (3072, (12, 16, 16)),
            (4096, (16, 16, 16)),
            (11008, (16, 16, 43)),
            (14336, (16, 28, 32)),
        ],
    )
    def test_known_widths_have_the_published_shapes(self, width: int, shape: tuple[int, int, int]) -> None:
        assert tensor_shape(width) == shape

    def test_any_width_has_three_factors_of_which_a_prime_has_one_that_counts(self) -> None:
        assert tensor_shape(769) == (1, 1, 769)
        assert tensor_shape(1) == (1, 1, 1)
        assert all(math.prod(tensor_shape(width)) == width for width in range(1, 400))


class TestTransform:
    @pytest.mark.parametrize("rank", [1, 2, 3])
    @pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
    def test_it_starts_as_the_identity(self, shape: tuple[int, ...], rank: int) -> None:
        transform, vectors = RingTransform(shape, rank, CPU), torch.randn(5, math.prod(shape))
        torch.testing.assert_close(ring_matrix(list(transform.cores)), torch.eye(math.prod(shape)))
        torch.testing.assert_close(transform(vectors), vectors)

    def test_rank_1_is_the_kronecker_product_with_the_first_factor_slowest(self) -> None:
        cores = [torch.randn(size, size) for size in SHAPE_IN]
        expected = torch.kron(torch.kron(cores[0], cores[1]), cores[2])
        torch.testing.assert_close(ring_matrix(cores), expected)

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_every_entry_is_the_trace_of_a_product_of_slices(self, rank: int) -> None:
        cores = random_cores(SHAPE_OUT, SHAPE_IN, rank)
        torch.testing.assert_close(ring_matrix(cores), matrix_by_entries(cores), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_the_contraction_equals_the_dense_product_on_vectors_and_on_weights(self, rank: int) -> None:
        cores = random_cores(SHAPE_OUT, SHAPE_IN, rank)
        dense = matrix_by_entries(cores)
        vectors, weight = torch.randn(2, 5, WIDTH_IN), torch.randn(7, WIDTH_OUT)
        torch.testing.assert_close(ring_product(cores, vectors), vectors @ dense.T, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ring_product(transposed(cores), weight), weight @ dense, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("rank", [1, 2])
    def test_the_contraction_has_the_gradients_of_the_dense_product(self, rank: int) -> None:
        cores = [core.requires_grad_() for core in random_cores(SHAPE_OUT, SHAPE_IN, rank)]
        vectors = torch.randn(WIDTH_IN, 2, 5).permute(1, 2, 0).requires_grad_()
        direction, tensors = torch.randn(2, 5, WIDTH_OUT), [vectors, *cores]
        results = [ring_product(cores, vectors), vectors @ ring_matrix(cores).T]
        found, expected = (torch.autograd.grad((result * direction).sum(), tensors) for result in results)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


class TestResidual:
    def test_tr_is_the_trace_over_output_cores_and_then_input_cores(self) -> None:
        residual = RESIDUALS["tr"](SHAPE_IN, SHAPE_OUT, 2, 1.0, CPU)
        nn.init.normal_(residual.C[0])
        cores = [*residual.C, *residual.E]
        for (j, out), (i, into) in itertools.product(
            enumerate(itertools.product(*map(range, SHAPE_OUT))), enumerate(itertools.product(*map(range, SHAPE_IN)))
        ):
            expected = entry(cores, [(index,) for index in (*out, *into)])
            torch.testing.assert_close(residual.matrix()[j, i], expected, rtol=1e-3, atol=1e-5)

    def test_ttm_is_a_tensor_ring_matrix(self) -> None:
        residual = RESIDUALS["ttm"](SHAPE_IN, SHAPE_OUT, 2, 0.5, CPU)
        nn.init.normal_(residual.cores[0])
        expected = 0.5 * matrix_by_entries(list(residual.cores))
        torch.testing.assert_close(residual.matrix(), expected, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("name", RESIDUALS)
    def test_it_starts_at_0_with_one_zero_tensor(self, name: str) -> None:
        residual = RESIDUALS[name](SHAPE_IN, SHAPE_OUT, 2, 0.5, CPU)
        assert not residual.matrix().any()
        assert sum(not tensor.any() for tensor in residual.parameters()) == 1

    def test_its_tensors_start_with_the_authors_deviations(self) -> None:
        shape, rank = (8, 40, 40), 4
        made = {name: RESIDUALS[name](shape, shape, rank, 1.0, CPU).requires_grad_(False) for name in RESIDUALS}
        assert float(made["lora"].A.std()) == pytest.approx((1 / 3 / 12800) ** 0.5, rel=0.05)
        assert float(made["tr"].C[1].std()) == pytest.approx(40**0.5 / 16, rel=0.2)
        assert float(made["tr"].E[1].std()) == pytest.approx(40**-0.5, rel=0.2)
        assert float(made["ttm"].cores[1].std()) == pytest.approx((1 / 3 / 40 / 16) ** 0.5, rel=0.05)


class TestLayer:
    @pytest.mark.parametrize("residual", RESIDUALS)
    @pytest.mark.parametrize("transform_rank", [0, 1, 2])
    def test_it_computes_with_w0_t_plus_the_residual_and_merges_to_that(
        self, transform_rank: int, residual: str
    ) -> None:
        made, hidden = layer(transform_rank, residual), torch.randn(5, WIDTH_IN)
        transform = torch.eye(WIDTH_IN) if made.transform is None else ring_matrix(list(made.transform.cores))
        weight, bias = made.weight @ transform + made.residual.matrix(), made.base.bias.clone()
        expected = hidden @ weight.T + bias
        torch.testing.assert_close(made(hidden), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made.merged()(hidden), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(made.base.bias, bias)

    def test_its_transform_keeps_full_precision_under_autocast(self) -> None:
        transform, hidden = layer().transform, torch.randn(5, WIDTH_IN)
        assert transform is not None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under_autocast = transform(hidden)
        assert torch.equal(under_autocast, transform(hidden))


class TestRegularisers:
    @pytest.mark.parametrize("distance", [identity_distance, orthogonality_distance])
    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_both_are_0_with_a_gradient_of_0_at_the_start(self, rank: int, distance: Any) -> None:
        cores = torch.stack(list(RingTransform((4, 4), rank, CPU).cores)).detach().requires_grad_()
        loss = distance(cores)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
        assert cores.grad is not None
        assert bool(cores.grad.isfinite().all())

    def test_the_distance_from_the_identity_sums_norms_over_slices(self) -> None:
        cores = torch.zeros(1, 2, 2, 2, 2)  # every slice is I / 2 away from I / 2, a norm of sqrt(1/2)
        assert float(identity_distance(cores)) == pytest.approx(4 * 0.5**0.5)

    def test_a_rotation_is_orthogonal_and_a_shear_is_not(self) -> None:
        rotation, shear = torch.tensor([[[0.6, -0.8], [0.8, 0.6]]]), torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
        assert float(orthogonality_distance(rotation)) == pytest.approx(0, abs=1e-6)
        assert float(orthogonality_distance(shear)) == pytest.approx(1 + 1 + 1)  # [[2, 1], [1, 1]] - I

    def test_the_orthogonal_one_is_core_wise_the_distance_of_t_t_transposed(self) -> None:
        core = torch.randn(1, 3, 3, 2, 2)
        expected = 0.0
        for i, j in itertools.product(range(3), repeat=2):
            product = sum(torch.kron(core[0, i, k], core[0, j, k]) for k in range(3))
            expected += float((product - (i == j) / 4).norm())
        assert float(orthogonality_distance(core)) == pytest.approx(expected, rel=1e-5)

    def test_the_penalty_sums_over_all_transforms(self) -> None:
        method = attached("tlora", regularisation_weight=0.5)
        with torch.no_grad():
            for core in method.transform_cores:  # type: ignore[attr-defined]
                core.zero_()
            norms = 8 * sum(size**0.5 for size in tensor_shape(64))  # 4 targets in 2 layers, each of width 64
            assert float(method.penalty()) == pytest.approx(0.5 * norms)  # type: ignore[arg-type]


class TestMethod:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"rank": 1}, 48 * (64 + 64 + 144 + 1536)),
            ({"rank": 1, "residual": "tr"}, 48 * 328),
            ({"rank": 2, "residual": "ttm", "transform_rank": 2}, 48 * (4 * 272 + 4 * 272)),
            ({"transform_rank": 0}, 48 * 4 * 1536),
        ],
    )
    def test_roberta_base_has_the_published_number_of_parameters(self, changes: dict[str, Any], expected: int) -> None:
        assert count_on_roberta_base("tlora", **changes) == expected

    def test_the_first_gradient_reaches_the_transform_and_the_zero_tensor_of_the_residual(self) -> None:
        moved: dict[str, set[str]] = {}
        for residual in RESIDUALS:
            method = attached("tlora", residual=residual)
            method.compute_loss(method.backbone.model.eval(), batch())[0].backward()
            first = next(iter(method.layers.values()))  # type: ignore[attr-defined]
            moved[residual] = {n for n, p in first.named_parameters() if p.requires_grad and p.grad.any()}
        transform = {f"transform.cores.{d}" for d in range(3)}
        assert moved["lora"] == transform | {"residual.B"}
        assert moved["tr"] == transform | {"residual.C.0"}
        assert moved["ttm"] == transform | {"residual.cores.0"}

    def test_the_scaling_divides_alpha_by_the_root_of_the_rank_or_by_the_rank(self) -> None:
        def scaling(**changes: Any) -> float:
            return next(iter(attached("tlora", alpha=6.0, rank=4, **changes).layers.values())).residual.scaling  # type: ignore[attr-defined]

        assert scaling() == 3.0
        assert scaling(use_rslora=False) == 1.5

    def test_the_transform_does_not_decay(self) -> None:
        method = attached("tlora")
        groups = method.parameter_groups(1e-3, 0.1)
        cores = {id(core) for core in method.transform_cores}  # type: ignore[attr-defined]
        assert {g["weight_decay"] for g in groups for p in g["params"] if id(p) in cores} == {0.0}
        decayed = sum(p.numel() for g in groups if g["weight_decay"] for p in g["params"])
        assert decayed == 8 * 4 * 128 + 3 * 64  # A and B of eight layers, the head's weight

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"rank": 65}, "method.rank=65 is above the size of bert.*query .64"),
            ({"rank": 0}, "method.rank=0 must be a whole number of at least 1"),
            ({"transform_rank": -1}, "method.transform_rank=-1 must be a whole number of at least 0"),
            ({"residual": "ttn"}, "method.residual=ttn is unknown. Did you mean 'ttm'"),
            ({"regulariser": "none"}, "method.regulariser=none is unknown.*Allowed: identity, orthogonal"),
            ({"regularisation_weight": -1.0}, "method.regularisation_weight=-1.0 must be at least 0"),
            ({"targets": ["norm.ffn"]}, "is no linear layer but LayerNorm"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, changes: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("tlora", **changes).check(backbone().anatomy)

    def test_without_regularisation_nothing_is_added_to_the_loss(self) -> None:
        method = attached("tlora")
        assert isinstance(method, TLora)
        assert method.penalty() is None
