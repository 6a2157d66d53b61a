"""ShareLoRA: what is tied to what, and that a tied factor is LoRA's in all else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import SettingsError
from methods.base import ADAPTER_FILE, Method, trainable
from tests import families
from tests.methods.conftest import attached, backbone, batch, count_on_roberta_base, logits, method_named


def sharelora(**changes: Any) -> Method:
    return attached("sharelora", rank=4, **changes)


def factors(method: Method, projection: str, name: str) -> list[nn.Parameter]:
    """A or B of every layer of the projection."""
    return [layer.get_parameter(name) for part, layer in method.layers.items() if part.endswith(projection)]


def perturbed(method: Method) -> Method:
    """All trainable tensors far from their start."""
    torch.manual_seed(2)
    for _, parameter in trainable(method.backbone.model):
        nn.init.normal_(parameter, std=0.3)
    return method


def untied(method: Method) -> Method:
    """A copy whose layers have factors of their own, with the same values."""
    alone = copy.deepcopy(method)
    for layer in alone.layers.values():
        layer.A, layer.B = nn.Parameter(layer.A.detach().clone()), nn.Parameter(layer.B.detach().clone())
    return alone


def gradients(method: Method) -> None:
    loss, _ = method.compute_loss(method.backbone.model.eval(), batch())
    loss.backward()


@pytest.mark.parametrize(
    ("share", "count"),
    # Queries and values: 2 groups and 24 layers of 768 to 768, rank 8; a factor has 6,144 numbers.
    [("A", 2 * 6_144 + 24 * 6_144), ("B", 2 * 6_144 + 24 * 6_144), ("AB", 2 * 2 * 6_144)],
)
def test_roberta_base_has_the_published_number_of_parameters(share: str, count: int) -> None:
    assert count_on_roberta_base("sharelora", share=share) == count
    assert count in (159_744, 24_576)


@pytest.mark.parametrize("share", ["A", "B", "AB"])
def test_a_shared_factor_is_one_tensor_per_projection_and_the_other_one_per_layer(share: str) -> None:
    method = sharelora(share=share)
    for name in "AB":
        query, value = factors(method, "query", name), factors(method, "value", name)
        distinct = {id(tensor) for tensor in query + value}
        assert len(distinct) == (2 if name in share else 4)
        assert query[0] is not value[0]
        assert (query[0] is query[1]) == (name in share)


def test_the_optimizer_holds_a_shared_factor_once() -> None:
    groups = sharelora().parameter_groups(1e-3, 0.01)
    head = 2
    assert sum(len(group["params"]) for group in groups) == 2 + 4 + head


def test_a_shared_factor_gets_the_sum_of_its_layers_gradients() -> None:
    method = perturbed(sharelora())
    alone = untied(method)
    gradients(method)
    gradients(alone)
    for projection in ("query", "value"):
        of_layers = [tensor.grad for tensor in factors(alone, projection, "A")]
        torch.testing.assert_close(factors(method, projection, "A")[0].grad, sum(of_layers))
        for tied, own in zip(factors(method, projection, "B"), factors(alone, projection, "B"), strict=True):
            torch.testing.assert_close(tied.grad, own.grad)


def test_the_first_gradient_reaches_b_alone() -> None:
    method = sharelora()
    gradients(method)
    assert not any(tensor.grad.any() for tensor in factors(method, "query", "A"))
    assert all(tensor.grad.any() for tensor in factors(method, "query", "B"))


def merged_changes(method: Method, projection: str) -> list[Tensor]:
    before = {name: layer.base.weight.detach().clone() for name, layer in method.layers.items()}
    method.finish()
    model = method.backbone.model
    return [model.get_submodule(n).weight - w for n, w in before.items() if n.endswith(projection)]


def test_every_merged_change_lies_in_the_rows_of_the_shared_a() -> None:
    method = perturbed(sharelora())
    A = factors(method, "query", "A")[0].detach()
    changes = merged_changes(method, "query")
    for change in changes:
        assert torch.linalg.matrix_rank(change, rtol=1e-4) == 4
        assert torch.linalg.matrix_rank(torch.cat([A, change]), rtol=1e-4) == 4
    assert not torch.allclose(*changes, atol=1e-2)


def test_with_both_factors_shared_every_layer_gets_the_same_change() -> None:
    torch.testing.assert_close(*merged_changes(perturbed(sharelora(share="AB")), "value"))


def test_copying_and_converting_the_model_keep_layers_together() -> None:
    names = [name for name in sharelora().layers if name.endswith("query")]
    model = copy.deepcopy(sharelora().backbone.model).half()
    first, second = (model.get_submodule(name) for name in names)
    assert first.A is second.A


def test_a_saved_adapter_holds_a_shared_factor_once_and_is_tied_again_when_loaded(tmp_path: Path) -> None:
    method = perturbed(sharelora())
    method.save(tmp_path)
    names = load_file(tmp_path / ADAPTER_FILE).keys()
    assert sum(name.endswith(".A") for name in names) == 2
    again = sharelora()
    again.load(tmp_path)
    assert torch.equal(logits(again, batch()), logits(method, batch()))
    assert factors(again, "query", "A")[0] is factors(again, "query", "A")[1]


def test_an_encoder_s_and_a_decoder_s_projections_are_tied_apart() -> None:
    base = families.backbone(families.classifier("t5"))
    method = method_named("sharelora", rank=4, targets=["attention.query"])
    method.check(base.anatomy)
    method.attach(base, 8)
    encoder = {id(layer.A) for name, layer in method.layers.items() if ".encoder." in name}
    decoder = {id(layer.A) for name, layer in method.layers.items() if ".decoder." in name}
    assert len(encoder) == len(decoder) == 1
    assert encoder != decoder


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"share": "C"}, "method.share=C is unknown. Allowed: A, AB, B."),
        ({"rank": 0}, "method.rank=0 must be a whole number of at least 1"),
        ({"rank": 65}, "method.rank=65 is above the size of bert.*query .64"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        method_named("sharelora", **changes).check(backbone().anatomy)
