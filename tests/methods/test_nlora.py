"""SLoRA, NLoRA and IntTune: starts, what trains and their counts, against the slices written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import SettingsError
from methods.base import trainable
from methods.parts.adapted_linear import LowRankLinear
from methods.parts.decomposed_linear import CoreLinear, random_start
from methods.parts.decompositions import nystrom_start
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, method_named, train

QV = ["attention.query", "attention.value"]


def layer_on(base: nn.Module, name: str = "nlora", **settings: Any) -> CoreLinear:
    """The layer that the method makes of a linear layer."""
    part = type("Part", (), {"module": base})()
    return method_named(name, **settings).adapted(part)  # type: ignore[attr-defined]


class TestStart:
    def test_slices_by_hand(self) -> None:
        weight = torch.arange(12.0).view(3, 4)
        A, N, B = nystrom_start(weight, 2)
        assert A.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert N.tolist() == [[0, 1], [4, 5]]
        assert B.tolist() == [[0, 1], [4, 5], [8, 9]]

    def test_slices_are_copies(self) -> None:
        weight = torch.ones(4, 4)
        for factor in nystrom_start(weight, 2):
            factor.zero_()
        assert weight.all()

    def test_with_the_inverse_the_product_is_nystrom_s_approximation(self) -> None:
        torch.manual_seed(0)
        square, low_rank = torch.randn(4, 4), torch.randn(6, 2) @ torch.randn(2, 5)
        for weight, rank in ((square, 4), (low_rank, 2)):  # exact at full rank, and where the rank is that of W
            A, N, B = nystrom_start(weight, rank, inverse=True)
            torch.testing.assert_close(B @ N @ A, weight, atol=1e-4, rtol=1e-4)

    def test_random_matrices_are_bounded_by_their_fans(self) -> None:
        torch.manual_seed(0)
        A, N, B = random_start(nn.Linear(400, 30), 25)
        assert (A.shape, N.shape, B.shape) == ((25, 400), (25, 25), (30, 25))
        assert A.abs().max().item() == pytest.approx(400**-0.5, rel=0.01)
        assert N.abs().max().item() == pytest.approx(25**-0.5, rel=0.01)
        assert not B.any()


class TestLayer:
    def test_output_and_merged_weight_follow_from_the_slices(self) -> None:
        torch.manual_seed(0)
        base = nn.Linear(6, 5)
        weight = base.weight.detach().clone()
        layer = layer_on(base, rank=3, alpha=6)
        expected = weight + 2 * weight[:, :3] @ weight[:3, :3] @ weight[:3, :]
        hidden = torch.randn(7, 6)
        torch.testing.assert_close(layer(hidden), nn.functional.linear(hidden, expected, base.bias))
        assert torch.equal(layer.weight, weight), "the base weight is as it was"
        torch.testing.assert_close(layer.merged().weight, expected)

    def test_it_is_a_lora_whose_b_is_b_times_n(self) -> None:
        torch.manual_seed(0)
        layer, hidden = layer_on(nn.Linear(6, 5), rank=3), torch.randn(7, 6)
        lora = LowRankLinear(layer.base, layer.scaling)
        lora.A, lora.B = layer.A, layer.B @ layer.C
        torch.testing.assert_close(lora(hidden), layer(hidden))

    def test_slora_s_first_gradient_reaches_b_alone(self) -> None:
        torch.manual_seed(0)
        layer = layer_on(nn.Linear(6, 5), "slora", rank=3)
        layer(torch.randn(7, 6)).square().sum().backward()
        touched = {name: bool(tensor.grad.any()) for name, tensor in layer.named_parameters() if len(name) == 1}
        assert touched == {"A": False, "B": True, "C": False}

    @pytest.mark.parametrize("inverse", [False, True])
    def test_with_the_start_subtracted_the_layer_starts_at_its_base(self, inverse: bool) -> None:
        torch.manual_seed(0)
        base, hidden = nn.Linear(6, 5), torch.randn(7, 6)
        layer = layer_on(copy.deepcopy(base), rank=3, alpha=6, subtract_init=True, nystrom_inverse=inverse)
        torch.testing.assert_close(layer(hidden), base(hidden), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(layer.merged().weight, base.weight, atol=1e-4, rtol=1e-4)


class TestMethod:
    @pytest.mark.parametrize(
        ("name", "settings", "expected"),
        [
            ("slora", {"targets": QV}, 294_912 + 24 * 8**2),
            ("nlora", {"targets": QV}, 296_448),
            ("slora", {}, 1_331_712),
            ("nlora", {}, 1_331_712),
            ("inttune", {}, 72 * 32**2),
            ("inttune", {"rank": 8, "targets": QV}, 1_536),
        ],
    )
    def test_parameters_of_roberta_base(self, name: str, settings: dict[str, Any], expected: int) -> None:
        assert count_on_roberta_base(name, **settings) == expected

    def test_inttune_trains_the_matrix_in_the_middle_alone(self) -> None:
        method = attached("inttune")
        start = {name: (layer.A.clone(), layer.B.clone()) for name, layer in _layers(method).items()}
        names = [name for name, _ in trainable(method.backbone.model)]
        assert all(name.endswith(".C") or name.startswith("classifier.") for name in names)
        train(method)
        for name, layer in _layers(method).items():
            assert torch.equal(layer.A, start[name][0])
            assert torch.equal(layer.B, start[name][1])

    @pytest.mark.parametrize(
        ("name", "settings", "starts"),
        [("slora", {}, True), ("nlora", {}, False), ("inttune", {}, False), ("inttune", {"subtract_init": True}, True)],
    )
    def test_which_of_them_start_at_the_base_model(self, name: str, settings: dict[str, Any], starts: bool) -> None:
        method, base = attached(name, **settings), backbone().model.eval()
        assert method.identity_at_start == starts
        found, expected = logits(method, batch()), base(**batch()).logits
        assert torch.allclose(found, expected, atol=1e-6) if starts else not torch.equal(found, expected)

    def test_slices_need_no_seed_and_random_matrices_depend_on_it(self) -> None:
        def start(name: str, seed: int) -> Tensor:
            method = method_named(name)
            torch.manual_seed(seed)
            method.attach(backbone(), 8)
            return next(iter(_layers(method).values())).A

        assert torch.equal(start("nlora", 1), start("nlora", 2))
        assert torch.equal(start("slora", 1), start("slora", 1))
        assert not torch.equal(start("slora", 1), start("slora", 2))

    @pytest.mark.parametrize("train_setting", ["all", "intermediate"])
    def test_a_start_that_was_subtracted_comes_back_from_disk(self, train_setting: str, tmp_path: Any) -> None:
        settings = {"train": train_setting, "subtract_init": True, "nystrom_inverse": True}
        method = attached("nlora", **settings)
        train(method).release()
        method.save(tmp_path)
        again = attached("nlora", **settings)
        again.load(tmp_path)
        assert torch.equal(logits(again, batch()), logits(method, batch()))

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"rank": 0}, "method.rank=0 must be a whole number of at least 1"),
            ({"alpha": 0}, "method.alpha=0 must be above 0"),
            ({"rank": 65}, "method.rank=65 is above the size of bert.*query .64"),
            ({"initialisation": "nystrom"}, "method.initialisation=nystrom is unknown.*Allowed: nlora, slora"),
            ({"train": "al"}, "method.train=al is unknown. Did you mean 'all'"),
            ({"initialisation": "slora", "train": "intermediate"}, "needs method.initialisation=nlora"),
            ({"dropout": 1.0}, "method.dropout=1.0 must be at least 0 and below 1"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("nlora", **settings).check(backbone().anatomy)


def _layers(method: Any) -> dict[str, CoreLinear]:
    return method.layers
