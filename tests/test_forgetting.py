"""Drift from the pretrained backbone: the numbers by hand, and no drift where nothing has changed."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
)

from bench.backbone.pretrained import Backbone, fresh
from bench.backbone.projections import take_apart
from bench.errors import Diverged
from bench.measure.forgetting import (
    Forgetting,
    Observation,
    base_observation,
    compare,
    language_head_reason,
    linear_cka,
    observe,
)
from bench.measure.passages import PASSAGES, Passages, in_batches
from bench.settings import ModelSettings
from bench.training.loop import accelerator, store_frozen_in
from methods.base import Method
from tests.conftest import METHODS
from tests.methods.conftest import SEED, STEPS, method_named, train

OUTPUTS = 3
REASSEMBLED = ("deft_injection", "frod", "hra", "lamda", "lamda_pp", "olora", "orthogonal_lora", "osf", "pissa")
"""Methods that put the pretrained weight together from parts: equal to it but for rounding."""

every_method = pytest.mark.parametrize("name", METHODS)


def save_tokenizer(source: Path, folder: Path, inputs: list[str]) -> int:
    """The tiny BERT's tokenizer with a mask token; returns the size of its vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.model_input_names = inputs
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    """A random BERT with a masked-language-model head."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = save_tokenizer(tiny_bert, folder, ["input_ids", "token_type_ids", "attention_mask"])
    torch.manual_seed(SEED)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=vocabulary, max_position_embeddings=128, pad_token_id=0, **sizes)
    BertForPreTraining(config).save_pretrained(folder)
    return ModelSettings(name="encoder", repository="test/encoder", path=str(folder))


@pytest.fixture(scope="module")
def decoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    """A random GPT-2 with its language-model head."""
    folder = tmp_path_factory.mktemp("decoder")
    vocabulary = save_tokenizer(tiny_bert, folder, ["input_ids", "attention_mask"])
    torch.manual_seed(SEED)
    config = GPT2Config(vocab_size=vocabulary, n_embd=64, n_layer=2, n_head=4, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return ModelSettings(name="decoder", repository="test/decoder", path=str(folder))


def attached(name: str, settings: ModelSettings) -> Method:
    method = method_named(name)
    torch.manual_seed(SEED)
    base = fresh(settings, "classification", OUTPUTS)
    method.attach(base, STEPS)
    return method


def seen(backbone: Backbone, settings: ModelSettings) -> Observation:
    return observe(backbone, settings, "cpu", contextlib.nullcontext())


def drift(backbone: Backbone, settings: ModelSettings) -> Forgetting:
    return compare(base_observation(settings, "classification", OUTPUTS, "cpu", "fp32"), seen(backbone, settings))


def test_features_agree_with_themselves_also_when_rotated_and_scaled() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    assert linear_cka(features, features) == pytest.approx(1, abs=1e-12)
    assert linear_cka(features, 3 * features @ rotation + 5) == pytest.approx(1, abs=1e-12)


def test_uncorrelated_and_constant_features_have_no_alignment() -> None:
    x, y = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(x, y) == 0
    assert linear_cka(x, torch.ones(4, 3)) == 0


def test_alignment_worked_by_hand() -> None:
    # centred: (-1, 0, 1) and (-1, -1, 2); (1 + 2)^2 / (2 * 6)
    assert linear_cka(torch.tensor([[0.0], [1], [2]]), torch.tensor([[0.0], [0], [3]])) == pytest.approx(0.75)
    # X'X = 2 I with norm sqrt(8), Y'Y = 2, Y'X = (2, 0); 4 / (2 sqrt(8))
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert linear_cka(x, x[:, :1]) == pytest.approx(0.5**0.5)


def test_distance_and_rise_worked_by_hand() -> None:
    base = Observation(torch.tensor([[3.0, 0], [0, 4]]), 2.0)
    moved = compare(base, Observation(torch.tensor([[3.0, 1], [0, 4]]), 2.5))
    assert (moved.feature_distance, moved.language_loss_rise) == (pytest.approx(0.2), 0.5)
    assert compare(base, Observation(base.features, None)).language_loss_rise is None


def test_the_passages_are_short_plain_and_distinct() -> None:
    passages = PASSAGES.read_text("utf-8").splitlines()
    assert len(set(passages)) == len(passages) == 48
    assert all(15 <= len(passage.split()) <= 40 and passage.isascii() for passage in passages)


@every_method
def test_a_method_that_starts_as_the_identity_has_forgotten_nothing_before_the_first_step(
    name: str, encoder: ModelSettings
) -> None:
    method = attached(name, encoder)
    if not method.identity_at_start:
        pytest.skip("the method does not start at the base model")
    found = drift(method.backbone, encoder)
    assert found.feature_distance == (pytest.approx(0, abs=1e-6) if name in REASSEMBLED else 0)
    assert found.feature_cka == pytest.approx(1, abs=1e-12)
    assert found.language_loss_rise == (pytest.approx(0, abs=1e-6) if name in REASSEMBLED else 0)


@every_method
def test_training_moves_the_backbone_and_merging_moves_it_no_further(name: str, encoder: ModelSettings) -> None:
    method = attached(name, encoder)
    start = seen(method.backbone, encoder)
    train(method)
    trained = seen(method.backbone, encoder)
    assert (compare(start, trained).feature_distance > 0) == (name != "linear_probe")
    method.finish()
    assert compare(trained, seen(method.backbone, encoder)).feature_distance < 1e-5


@every_method
def test_a_model_that_was_observed_trains_as_if_it_had_not_been(name: str, encoder: ModelSettings) -> None:
    observed, unobserved = attached(name, encoder), attached(name, encoder)
    seen(observed.backbone, encoder)
    train(observed)
    train(unobserved)
    expected = dict(unobserved.backbone.model.named_parameters())
    assert all(torch.equal(p, expected[n]) for n, p in observed.backbone.model.named_parameters())


@pytest.mark.parametrize("name", ["lora", "bitfit", "full"])
def test_a_method_in_half_precision_starts_at_the_base_as_the_run_stores_it(name: str, encoder: ModelSettings) -> None:
    method = attached(name, encoder)
    store_frozen_in(method.backbone.model, "bf16")
    start = observe(method.backbone, encoder, "cpu", accelerator("cpu", "bf16").autocast())
    trained = frozenset(n for n, p in method.backbone.model.named_parameters() if p.requires_grad)
    found = compare(base_observation(encoder, "classification", OUTPUTS, "cpu", "bf16", trained), start)
    assert (found.feature_distance, found.language_loss_rise) == (0, 0)
    assert compare(base_observation(encoder, "classification", OUTPUTS, "cpu", "fp32"), start).feature_distance > 0


def test_a_decoder_with_lora_starts_at_the_base_and_leaves_it(decoder: ModelSettings) -> None:
    method = attached("lora", decoder)
    start = drift(method.backbone, decoder)
    assert (start.feature_distance, start.language_loss_rise) == (0, 0)
    train(method)
    assert drift(method.backbone, decoder).feature_distance > 0


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning"])
def test_features_behind_a_soft_prompt_are_those_of_the_real_tokens(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    settings = request.getfixturevalue(kind)
    method = attached(name, settings)
    prompt = method.backbone.model.eval().get_prompt(1)[0]
    expected = torch.cat([behind_prompt(prompt, batch, settings) for batch in in_batches(settings)])
    torch.testing.assert_close(seen(method.backbone, settings).features, expected)


def behind_prompt(prompt: Tensor, passages: Passages, settings: ModelSettings) -> Tensor:
    """The untouched backbone's hidden states at real tokens, with prompt vectors (length, width) ahead of them."""
    model = fresh(settings, "classification", OUTPUTS).anatomy.backbone.eval()
    embedded = model.get_input_embeddings()(passages.inputs["input_ids"])
    ahead = prompt.expand(len(embedded), *prompt.shape)
    mask = torch.cat([torch.ones(ahead.shape[:2]), passages.real], dim=1)
    with torch.no_grad():
        hidden = model(inputs_embeds=torch.cat([ahead, embedded], dim=1), attention_mask=mask).last_hidden_state
    return hidden[:, len(prompt) :][passages.real]


def test_observing_leaves_modes_random_states_gradients_and_weights_alone(encoder: ModelSettings) -> None:
    base = fresh(encoder, "classification", OUTPUTS)
    base.model.train()
    base.anatomy.blocks[0][1].eval()
    modes = [module.training for module in base.model.modules()]
    weights = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    random = torch.get_rng_state()
    seen(base, encoder)
    base_observation.cache_clear()
    base_observation(encoder, "classification", OUTPUTS, "cpu", "fp32")
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in base.model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in base.model.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.model.state_dict().items())


def test_features_that_are_not_finite_are_a_divergence(encoder: ModelSettings) -> None:
    base = fresh(encoder, "classification", OUTPUTS)
    next(base.anatomy.backbone.parameters()).data.fill_(torch.nan)
    with pytest.raises(Diverged):
        seen(base, encoder)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_language_loss_is_that_of_the_language_model_itself(kind: str, request: pytest.FixtureRequest) -> None:
    settings = request.getfixturevalue(kind)
    loss = base_observation(settings, "classification", OUTPUTS, "cpu", "fp32").language_loss
    assert loss == pytest.approx(loss_of(language_model(settings), settings), rel=1e-6)
    assert language_head_reason(settings) is None


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_rise_is_that_of_the_changed_backbone_under_the_pretrained_head(
    kind: str, request: pytest.FixtureRequest
) -> None:
    settings = request.getfixturevalue(kind)
    changed, model = fresh(settings, "classification", OUTPUTS), language_model(settings)
    before = loss_of(model, settings)
    torch.manual_seed(SEED)
    with torch.no_grad():
        for parameter in changed.anatomy.backbone.parameters():
            parameter.add_(torch.randn_like(parameter))
    projection = model.get_output_embeddings()
    projection.weight = torch.nn.Parameter(projection.weight.detach().clone())  # no longer tied to the embeddings
    take_apart(model)
    model.base_model.load_state_dict(changed.anatomy.backbone.state_dict(), strict=False)
    rise = drift(changed, settings).language_loss_rise
    assert rise == pytest.approx(loss_of(model, settings) - before, abs=1e-5)
    assert rise > 1e-3  # far more than the tolerance: weights of unit size make any text less likely


def language_model(settings: ModelSettings) -> Any:
    kind = AutoModelForMaskedLM if settings.name == "encoder" else AutoModelForCausalLM
    return kind.from_pretrained(settings.path).eval()


def loss_of(model: Any, settings: ModelSettings) -> float:
    """The model's own loss, passage by passage, weighted by the number of predicted tokens."""
    tokenizer = AutoTokenizer.from_pretrained(settings.path)
    total = predictions = 0.0
    for passage in PASSAGES.read_text("utf-8").splitlines():
        tokens = tokenizer(passage, truncation=True, max_length=64)["input_ids"]
        assert (tokens[0], tokens[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        labels = [-100, *tokens[1:-1], -100]
        if settings.name == "encoder":
            gaps = range(7, len(tokens) - 1, 7)
            labels = [token if position in gaps else -100 for position, token in enumerate(tokens)]
            tokens = [tokenizer.mask_token_id if position in gaps else token for position, token in enumerate(tokens)]
        with torch.no_grad():
            mean = float(model(input_ids=torch.tensor([tokens]), labels=torch.tensor([labels])).loss)
        count = sum(label >= 0 for label in labels)
        total, predictions = total + mean * count, predictions + count
    return total / predictions


def test_a_checkpoint_without_a_language_head_has_no_language_loss(
    encoder: ModelSettings, tiny_bert: Path, tmp_path: Path
) -> None:
    fresh(encoder, "classification", OUTPUTS).model.save_pretrained(tmp_path)
    save_tokenizer(tiny_bert, tmp_path, ["input_ids", "attention_mask"])
    reasons = {tmp_path: "cls.predictions.* is missing", tiny_bert: "no mask token"}
    for folder, reason in reasons.items():
        settings = ModelSettings(name="headless", repository="test/headless", path=str(folder))
        assert re.search(reason, language_head_reason(settings) or "")
        found = drift(fresh(settings, "classification", OUTPUTS), settings)
        assert (found.language_loss_rise, found.feature_distance) == (None, 0)
