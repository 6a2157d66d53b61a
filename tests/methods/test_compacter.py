"""Compacter: hypercomplex layers against dense Kronecker products, the shared rule, places, counts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from bench.backbone.anatomy import FAMILIES, Anatomy
from bench.errors import SettingsError
from methods.base import ADAPTER_FILE, trainable
from methods.compacter import Compacter
from methods.parts.bottleneck import Bottleneck, part
from methods.parts.phm import PHMLinear, phm_product, shared_rule
from tests.families import backbone, classifier, inputs
from tests.methods.conftest import attached, batch, count_on_roberta_base, method_named

CPU = torch.device("cpu")


def on(family: str, **changes: Any) -> Compacter:
    """Compacter on a family's tiny classifier, with the smallest bottleneck that four products allow."""
    method = method_named("compacter", reduction=8, **changes)
    base = backbone(classifier(family))
    method.check(base.anatomy)
    torch.manual_seed(1)
    method.attach(base, 10)
    return method


def dense(layer: PHMLinear) -> Tensor:
    """H, entry by entry of its definition."""
    products = (torch.kron(c, u @ v) for c, u, v in zip(layer.rule, layer.left, layer.right, strict=True))
    return torch.stack(list(products)).sum(0)


def phm_layers(model: nn.Module) -> list[PHMLinear]:
    return [module for module in model.modules() if isinstance(module, PHMLinear)]


class TestLayer:
    @pytest.mark.parametrize(("width_in", "width_out"), [(24, 8), (8, 24), (12, 12)], ids=["down", "up", "square"])
    @pytest.mark.parametrize("rank", [1, 3])
    def test_it_multiplies_by_the_sum_of_kronecker_products(self, width_in: int, width_out: int, rank: int) -> None:
        torch.manual_seed(0)
        layer = PHMLinear(nn.Parameter(torch.randn(4, 4, 4)), width_in, width_out, rank)
        nn.init.normal_(layer.bias)
        hidden = torch.randn(3, 5, width_in)
        torch.testing.assert_close(layer(hidden), hidden @ dense(layer) + layer.bias, rtol=1e-4, atol=1e-5)

    def test_a_product_by_hand(self) -> None:
        rule = torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
        left, right = torch.tensor([[[3.0]], [[1.0]]]), torch.tensor([[[5.0, 7.0]], [[1.0, 1.0]]])
        # C_1 (x) (3 [5, 7]) has rows [15, 21, 30, 42] and [0, 0, 15, 21]; C_2 adds nothing.
        found = phm_product(torch.tensor([1.0, 10.0]), rule, left, right)
        assert found.tolist() == [15, 21, 30 + 150, 42 + 210]

    def test_the_rule_starts_a_hundred_times_smaller_than_the_factors(self) -> None:
        torch.manual_seed(0)
        rule = shared_rule(12, CPU)
        assert rule.std().item() == pytest.approx(1e-4, rel=0.1)
        layer = PHMLinear(rule, 1200, 48, rank=1)
        # Xavier of each slice, gain sqrt(2): bound sqrt(2) sqrt(6 / (100 + 1)) and sqrt(2) sqrt(6 / (1 + 4)).
        for tensor, fans in ((layer.left, 101), (layer.right, 5)):
            bound = (12 / fans) ** 0.5
            assert 0.9 * bound < tensor.abs().max() <= bound
        assert not layer.bias.any()

    def test_an_adapter_is_a_bottleneck_around_gelu_new(self) -> None:
        method = attached("compacter")
        adapter = next(module for module in method.backbone.model.modules() if isinstance(module, Bottleneck))
        assert isinstance(adapter.down, PHMLinear)
        assert isinstance(adapter.up, PHMLinear)
        for parameter in adapter.parameters():
            nn.init.normal_(parameter)
        hidden = torch.randn(7, 64)
        inner = NewGELUActivation()(hidden @ dense(adapter.down) + adapter.down.bias)
        expected = inner @ dense(adapter.up) + adapter.up.bias
        torch.testing.assert_close(adapter(hidden), expected, rtol=1e-4, atol=1e-4)


class TestSharedRule:
    def test_it_is_one_tensor_and_the_optimizer_has_it_once(self) -> None:
        method = attached("compacter")
        rules = [layer.rule for layer in phm_layers(method.backbone.model)]
        assert len(rules) == 8
        assert all(rule is rules[0] for rule in rules)
        assert [name for name, _ in trainable(method.backbone.model) if name.endswith(".rule")] == [
            "bert.encoder.layer.0.adapter_attention.down.rule"
        ]
        held = [tensor for group in method.parameter_groups(1e-3, 0.0) for tensor in group["params"]]
        assert sum(tensor is rules[0] for tensor in held) == 1

    def test_its_gradient_is_the_sum_of_those_that_rules_of_their_own_would_have(self) -> None:
        method = attached("compacter")
        apart = copy.deepcopy(method.backbone.model).eval()
        for layer in phm_layers(apart):
            layer.rule = nn.Parameter(layer.rule.detach().clone())
        apart(**batch()).loss.backward()
        method.backbone.model.eval()(**batch()).loss.backward()
        expected = torch.stack([layer.rule.grad for layer in phm_layers(apart)]).sum(0)
        torch.testing.assert_close(method.rule.grad, expected)

    def test_it_stays_at_its_start_where_it_is_not_learned(self) -> None:
        method = attached("compacter", learn_rule=False)
        loss, _ = method.compute_loss(method.backbone.model.train(), batch())
        loss.backward()
        assert method.rule.grad is None
        assert not any(name.endswith(".rule") for name, _ in trainable(method.backbone.model))

    def test_it_is_saved_once_and_is_still_shared_when_it_is_read_again(self, tmp_path: Path) -> None:
        method = attached("compacter")
        nn.init.normal_(method.rule)
        method.save(tmp_path)
        assert sum(name.endswith(".rule") for name in load_file(tmp_path / ADAPTER_FILE)) == 1
        again = attached("compacter")
        again.load(tmp_path)
        assert all(layer.rule is again.rule for layer in phm_layers(again.backbone.model))
        assert torch.equal(again.rule, method.rule)

    def test_a_copy_of_the_model_shares_a_rule_of_its_own(self) -> None:
        method = attached("compacter")
        rules = [layer.rule for layer in phm_layers(copy.deepcopy(method.backbone.model))]
        assert all(rule is rules[0] for rule in rules)
        assert rules[0] is not method.rule


class TestMethod:
    @pytest.mark.parametrize(("name", "adapters"), [("compacter", 57_088), ("compacter_pp", 28_576)])
    def test_roberta_base_has_the_published_number_of_parameters(self, name: str, adapters: int) -> None:
        assert count_on_roberta_base(name, train_layernorm=False) == adapters
        assert count_on_roberta_base(name) == adapters + 25 * 2 * 768

    @pytest.mark.parametrize(("width", "reduction", "size"), [(768, 32, 24), (768, 8, 96), (384, 32, 12), (64, 32, 4)])
    def test_the_inner_width_is_a_multiple_of_the_division(self, width: int, reduction: int, size: int) -> None:
        method = method_named("compacter", reduction=reduction)
        assert isinstance(method, Compacter)
        assert method.size(width) == size

    @pytest.mark.parametrize("family", FAMILIES)
    def test_it_starts_close_to_the_base_model_but_not_at_it(self, family: str) -> None:
        method = on(family)
        with torch.no_grad():
            expected = classifier(family)(**inputs(family)).logits
            found = method.backbone.model.eval()(**inputs(family)).logits
        assert 0 < (found - expected).norm() / expected.norm() < 1e-2

    @pytest.mark.parametrize(("family", "dropped"), [("t5", True), ("bert", False)])
    def test_dropout_falls_on_an_adapters_output_in_t5_alone(self, family: str, dropped: bool) -> None:
        method = on(family)
        anatomy, model = method.backbone.anatomy, method.backbone.model
        seen: list[Tensor] = []
        for sublayer in method.sublayers:
            dropout = part(anatomy, f"sublayer.{sublayer}_output", 0)
            dropout.register_forward_hook(lambda module, inputs, output: seen.append(output))
            dropout.p = 1.0
            cast(nn.Linear, anatomy.blocks[0][1].get_submodule(f"adapter_{sublayer}.up")).bias.data.fill_(1.0)
        with torch.no_grad():
            model.train()(**inputs(family))
        assert [bool((output == 0).all()) for output in seen] == [dropped, dropped]

    def test_compacter_pp_has_no_adapter_at_the_attention(self) -> None:
        names = [name for name, _ in attached("compacter_pp").backbone.model.named_modules()]
        assert sum(name.endswith("adapter_ffn") for name in names) == 2
        assert not any(name.endswith("adapter_attention") for name in names)

    @pytest.mark.parametrize("family", ["bert", "t5", "llama"])
    def test_all_norms_of_the_backbone_train_where_they_are_asked_to(self, family: str) -> None:
        model = on(family).backbone.model
        norms = {name for name, module in model.named_modules() if "Norm" in type(module).__name__}
        named = {name.rpartition(".")[0] for name, _ in trainable(model) if "adapter_" not in name}
        assert named & norms == norms
        frozen = on(family, train_layernorm=False).backbone.model
        assert not any("norm" in name.lower() for name, _ in trainable(frozen))

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"division": 5}, r"method\.division=5 must divide the model's width \(32\)"),
            ({"division": 0}, r"method\.division=0 must be a whole number of at least 1"),
            ({"rank": 1.5}, r"method\.rank=1\.5 must be a whole number of at least 1"),
            ({"sublayers": ["fnn"]}, r"method\.sublayers=fnn is unknown\. Did you mean 'ffn'"),
            ({"nonlinearity": "gelu_neu"}, r"method\.nonlinearity=gelu_neu is unknown\. Did you mean 'gelu_new'"),
            ({"reduction": 33}, r"method\.reduction=33 is above the model's width \(32\)"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            method_named("compacter", **settings).check(Anatomy(classifier("bert"), "bert"))
