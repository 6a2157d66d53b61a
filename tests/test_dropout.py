"""Fast CPU dropout is dropout: rate, independence, scale, gradient and reproducibility, alone and inside models."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from bench.backbone import dropout
from bench.backbone.dropout import (
    ATTENTION_NAME,
    LANE_VALUES,
    LANES_PER_WORD,
    FastDropout,
    attention_with_fast_dropout,
    draw_keep_mask,
    fast_dropout,
    use_fast_dropout,
)

STANDARD_ERRORS = 5.0


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Give every test the same random numbers and leave the default generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20260)
        yield


def binomial_tolerance(p: float, draws: int) -> float:
    """Return the largest deviation of a rate that chance explains."""
    return STANDARD_ERRORS * math.sqrt(p * (1 - p) / draws)


# Masks


def test_all_64_bits_of_a_drawn_word_vary() -> None:
    words = torch.empty(4096, dtype=torch.int64).random_(-(2**63), None)
    rate_of_each_bit = torch.stack([(words >> bit) & 1 for bit in range(64)]).double().mean(dim=1)
    assert (rate_of_each_bit - 0.5).abs().max() < binomial_tolerance(0.5, 4096)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(400_000,), (401, 997), (13, 3, 101, 101)])
def test_share_of_dropped_elements_is_p(p: float, shape: tuple[int, ...]) -> None:
    output = fast_dropout(torch.ones(shape), p)
    dropped = (output == 0).double().mean().item()
    assert abs(dropped - p) < binomial_tolerance(p, math.prod(shape)) + 1 / LANE_VALUES


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_no_lane_of_the_words_is_biased(p: float) -> None:
    lanes = draw_keep_mask(torch.Size([200_000, LANES_PER_WORD]), round(p * LANE_VALUES))
    kept = lanes.double().mean(dim=0)
    assert (kept - (1 - p)).abs().max() < binomial_tolerance(p, 200_000) + 1 / LANE_VALUES


def test_lanes_and_neighbouring_words_are_uncorrelated() -> None:
    draws = 40_000
    mask = draw_keep_mask(torch.Size([draws, 8 * LANES_PER_WORD]), LANE_VALUES // 4)
    correlations = torch.corrcoef(mask.double().T) - torch.eye(8 * LANES_PER_WORD)
    assert correlations.abs().max() < STANDARD_ERRORS / math.sqrt(draws)


def test_positions_are_uncorrelated_over_repeated_draws() -> None:
    draws = 5_000
    masks = torch.stack([draw_keep_mask(torch.Size([3, 7]), LANE_VALUES // 2).flatten() for _ in range(draws)])
    correlations = torch.corrcoef(masks.double().T) - torch.eye(21)
    assert correlations.abs().max() < STANDARD_ERRORS / math.sqrt(draws)


def test_threshold_drops_exactly_the_lowest_lane_values(monkeypatch: pytest.MonkeyPatch) -> None:
    every_lane_value_once = torch.arange(-(LANE_VALUES // 2), LANE_VALUES // 2, dtype=torch.int16).view(torch.int64)
    monkeypatch.setattr(torch.Tensor, "random_", lambda words, *bounds: words.copy_(every_lane_value_once))
    for dropped_values in (1, 6554, LANE_VALUES - 1):
        kept = draw_keep_mask(torch.Size([LANE_VALUES]), dropped_values)
        assert kept.sum().item() == LANE_VALUES - dropped_values


@pytest.mark.parametrize("elements", [0, 1, 2, 3, 4, 5, 7, 4097])
def test_every_size_gets_a_mask_of_its_shape(elements: int) -> None:
    mask = draw_keep_mask(torch.Size([elements, 1]), LANE_VALUES // 2)
    assert mask.shape == (elements, 1)
    assert mask.dtype == torch.uint8


# Values and gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.9])
def test_kept_elements_are_scaled_by_the_exact_keep_probability(dtype: torch.dtype, p: float) -> None:
    x = torch.randn(1000, dtype=dtype)
    output = fast_dropout(x, p)
    keep_probability = 1 - round(p * LANE_VALUES) / LANE_VALUES
    kept = output != 0
    assert output.dtype == dtype
    assert 0 < kept.sum() < 1000
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(output[kept], (x.double() / keep_probability)[kept].to(dtype), rtol=rounding, atol=0)


def test_same_seed_gives_the_same_mask_in_float32_and_bfloat16() -> None:
    ones = torch.ones(33, 5)
    torch.manual_seed(3)
    single = fast_dropout(ones, 0.3)
    torch.manual_seed(3)
    half = fast_dropout(ones.bfloat16(), 0.3)
    assert torch.equal(single != 0, half != 0)


def test_generator_state_resumes_the_stream_of_masks() -> None:
    x = torch.ones(1001)
    fast_dropout(x, 0.5)
    state = torch.get_rng_state()
    continued = fast_dropout(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(fast_dropout(x, 0.5), continued)
    assert not torch.equal(fast_dropout(x, 0.5), continued)


@pytest.mark.parametrize("shape", [(257,), (8, 9, 10)])
def test_gradient_is_the_gradient_of_mask_times_scale(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    upstream = torch.randn(shape)
    output = fast_dropout(x, 0.25)
    (gradient,) = torch.autograd.grad(output, x, upstream)
    mask = (output != 0).float()
    (expected,) = torch.autograd.grad(x * mask / 0.75, x, upstream)
    torch.testing.assert_close(gradient, expected)


def test_gradient_reaches_a_transposed_input() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def with_the_same_mask(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return fast_dropout(x.T, 0.5)

    assert torch.autograd.gradcheck(with_the_same_mask, x)
    assert torch.autograd.gradgradcheck(with_the_same_mask, x)


def test_backward_keeps_one_byte_per_element() -> None:
    saved: list[torch.Tensor] = []
    x = torch.randn(64, requires_grad=True)

    def record(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        fast_dropout(x, 0.1)
    assert [tensor.dtype for tensor in saved] == [torch.uint8]


def test_no_dropout_draws_nothing_and_returns_the_input() -> None:
    x = torch.randn(10)
    state = torch.get_rng_state()
    assert fast_dropout(x, 0.0) is x
    assert FastDropout(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_full_dropout_gives_zeros() -> None:
    assert torch.equal(fast_dropout(torch.ones(10), 1.0), torch.zeros(10))


def test_other_devices_get_native_dropout() -> None:
    state = torch.get_rng_state()
    assert fast_dropout(torch.ones(10, device="meta"), 0.5).device.type == "meta"
    assert torch.equal(torch.get_rng_state(), state)


# Attention

AttentionInputs = tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]


def attention_inputs(
    key_value_heads: int, causal: bool, dtype: torch.dtype = torch.float32, queries: int = 6, keys: int = 6
) -> AttentionInputs:
    """Return a stand-in for the attention module and random query, key, value with 4 query heads of 8 dimensions."""
    module = nn.Module()
    module.is_causal = causal
    module.num_key_value_groups = 4 // key_value_heads
    sizes = [(2, 4, queries, 8), (2, key_value_heads, keys, 8), (2, key_value_heads, keys, 8)]
    query, key, value = (torch.randn(size, dtype=dtype) for size in sizes)
    return module, query, key, value


def padding_mask() -> torch.Tensor:
    """Return a boolean mask (2, 1, 6, 6) that hides the last two keys of the second sequence."""
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1, :, :, 4:] = False
    return mask


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_dropout_is_sdpa_bit_for_bit(key_value_heads: int, causal: bool, masked: bool) -> None:
    inputs = attention_inputs(key_value_heads, causal)
    mask = padding_mask() if masked else None
    expected, _ = sdpa_attention_forward(*inputs, mask, dropout=0.0)
    assert torch.equal(attention_with_fast_dropout(*inputs, mask, dropout=0.0)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", ["none", "boolean", "additive", "bias", "boolean and bias"])
@pytest.mark.parametrize(
    ("key_value_heads", "causal", "queries", "keys"),
    [(4, False, 6, 6), (2, True, 6, 6), (1, True, 6, 9), (2, True, 1, 6), (2, True, 17, 17)],
)
def test_written_out_attention_is_sdpa_where_nothing_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    mask: str,
    key_value_heads: int,
    causal: bool,
    queries: int,
    keys: int,
) -> None:
    monkeypatch.setattr(dropout, "fast_dropout", lambda x, p: x)
    inputs = attention_inputs(key_value_heads, causal, dtype, queries, keys)
    visible = torch.rand(2, 1, queries, keys) < 0.7
    visible[..., 0] = True
    attention_mask = {
        "boolean": visible,
        "boolean and bias": visible,
        "additive": torch.where(visible, 0.0, torch.finfo(dtype).min),
    }.get(mask)
    bias = torch.randn(1, 4, queries, keys) if "bias" in mask else None
    module, *tensors = inputs
    exact = [tensor.float() for tensor in tensors]
    expected, _ = sdpa_attention_forward(module, *exact, attention_mask, scaling=0.3, position_bias=bias)
    output, weights = attention_with_fast_dropout(*inputs, attention_mask, dropout=0.5, scaling=0.3, position_bias=bias)
    assert weights is None
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected.to(dtype))


def test_mean_attention_over_many_draws_is_attention_without_dropout() -> None:
    module, query, key, value = attention_inputs(key_value_heads=2, causal=True)
    repeats = 4000
    expected, _ = sdpa_attention_forward(module, query, key, value, None)
    batches = [torch.cat([tensor] * repeats) for tensor in (query, key, value)]
    draws, _ = attention_with_fast_dropout(module, *batches, None, dropout=0.2)
    draws = draws.view(repeats, *expected.shape)
    standard_error = draws.std(dim=0) / math.sqrt(repeats)
    assert ((draws.mean(dim=0) - expected).abs() < STANDARD_ERRORS * standard_error).all()


def test_attention_drops_single_probabilities_not_rows() -> None:
    module, query, key, _ = attention_inputs(key_value_heads=4, causal=False, queries=50, keys=50)
    probabilities_as_output = torch.eye(50).expand(2, 4, 50, 50)
    draw, _ = attention_with_fast_dropout(module, query, key, probabilities_as_output, None, dropout=0.3)
    undropped, _ = sdpa_attention_forward(module, query, key, probabilities_as_output, None)
    kept = draw != 0
    assert abs(kept.double().mean() - 0.7) < binomial_tolerance(0.3, kept.numel()) + 1 / LANE_VALUES
    kept_per_row = kept.double().mean(dim=-1)
    assert kept_per_row.std().item() == pytest.approx(math.sqrt(0.3 * 0.7 / 50), rel=0.2)
    exact_scale = 1 / (1 - round(0.3 * LANE_VALUES) / LANE_VALUES)
    torch.testing.assert_close(draw[kept], undropped[kept] * exact_scale)


def test_query_that_may_attend_to_nothing_stays_finite() -> None:
    inputs = attention_inputs(key_value_heads=4, causal=False)
    output, _ = attention_with_fast_dropout(*inputs, torch.zeros(2, 1, 6, 6, dtype=torch.bool), dropout=0.1)
    assert output.isfinite().all()


# Models

SMALL = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 32}


def tiny_model(family: str) -> PreTrainedModel:
    """Build a random two-layer model of a family, with dropout 0.1 wherever the family has it, in training mode."""
    models: dict[str, PreTrainedModel] = {
        "bert": BertForSequenceClassification(BertConfig(**SMALL, attn_implementation="sdpa")),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=16)),
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, attention_dropout=0.1)),
        "t5": T5ForConditionalGeneration(
            T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0)
        ),
        "deberta": DebertaV2ForSequenceClassification(DebertaV2Config(**SMALL)),
    }
    return models[family].train()


def batch(family: str) -> dict[str, torch.Tensor]:
    """Return two sequences of 7 tokens, the second padded from its fifth on, with labels for the family's task."""
    tokens = torch.randint(1, 50, (2, 7))
    attention_mask = torch.ones(2, 7, dtype=torch.int64)
    attention_mask[1, 4:] = 0
    labels = torch.tensor([0, 1]) if family in ("bert", "deberta") else tokens
    return {"input_ids": tokens, "attention_mask": attention_mask, "labels": labels}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_models_of_the_attention_registry_train_through_the_fast_attention(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    shapes = []
    monkeypatch.setattr(dropout, "fast_dropout", lambda x, p: shapes.append(x.shape) or fast_dropout(x, p))
    model = tiny_model(family)
    assert use_fast_dropout(model) > 0
    model(**batch(family)).loss.backward()
    attention_layers = {"t5": 6}.get(family, 2)
    assert shapes.count(torch.Size([2, 4, 7, 7])) == attention_layers
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "deberta"])
def test_evaluation_is_unchanged_bit_for_bit(family: str) -> None:
    model = tiny_model(family).eval()
    inputs = batch(family)
    expected = model(**inputs).logits
    use_fast_dropout(model)
    assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "deberta"])
def test_no_native_dropout_runs_in_training(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    model = tiny_model(family)
    use_fast_dropout(model)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("native dropout was called")

    monkeypatch.setattr(nn.functional, "dropout", refuse)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", refuse)
    state = torch.get_rng_state()
    model(**batch(family)).loss.backward()
    assert not torch.equal(torch.get_rng_state(), state)


def test_mean_training_logits_are_those_of_native_dropout() -> None:
    native = tiny_model("bert")
    fast = copy.deepcopy(native)
    use_fast_dropout(fast)
    inputs = {name: tensor.repeat(1500, *[1] * (tensor.ndim - 1)) for name, tensor in batch("bert").items()}
    with torch.no_grad():
        draws = [model(**inputs).logits.view(1500, 2, 2) for model in (native, fast)]
    standard_error = torch.sqrt(draws[0].var(dim=0) + draws[1].var(dim=0)) / math.sqrt(1500)
    assert ((draws[0].mean(dim=0) - draws[1].mean(dim=0)).abs() < STANDARD_ERRORS * standard_error).all()
    torch.testing.assert_close(draws[0].std(dim=0), draws[1].std(dim=0), rtol=0.15, atol=0)


def peft_bert() -> nn.Module:
    """Return a tiny BERT with LoRA whose adapter has dropout of its own."""
    lora = LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.1, target_modules=["query", "value"])
    return get_peft_model(tiny_model("bert"), lora).train()


def test_peft_dropout_is_changed_too() -> None:
    model = peft_bert()
    use_fast_dropout(model)
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert {type(module) for module in dropouts} == {FastDropout}
    assert sum("lora_dropout" in name for name, module in model.named_modules() if type(module) is FastDropout) == 4
    assert model.base_model.model.config._attn_implementation == ATTENTION_NAME


def test_model_changed_before_peft_trains_like_one_changed_after() -> None:
    before = tiny_model("bert")
    use_fast_dropout(before)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.0, target_modules=["query", "value"])
    before = get_peft_model(before, lora).train()
    after = copy.deepcopy(before)
    use_fast_dropout(after)
    inputs = batch("bert")
    losses = []
    for model in (before, after):
        torch.manual_seed(1)
        losses.append(model(**inputs).loss)
    assert torch.equal(*losses)


def test_copies_and_state_dicts_are_as_before() -> None:
    model = peft_bert()
    keys = list(model.state_dict())
    use_fast_dropout(model)
    duplicate = copy.deepcopy(model)
    assert list(model.state_dict()) == keys
    inputs = batch("bert")
    losses = []
    for each in (model, duplicate):
        torch.manual_seed(2)
        losses.append(each(**inputs).loss)
    assert torch.equal(*losses)


def test_second_call_changes_nothing() -> None:
    model = tiny_model("bert")
    sites = sum(type(module) is nn.Dropout for module in model.modules()) + 1
    assert use_fast_dropout(model) == sites
    assert use_fast_dropout(model) == 0


def test_eager_attention_and_models_without_registry_keep_their_attention() -> None:
    eager = tiny_model("bert")
    eager.set_attn_implementation("eager")
    for model in (eager, tiny_model("deberta")):
        use_fast_dropout(model)
        assert model.config._attn_implementation == "eager"


def test_saved_configuration_does_not_mention_the_fast_attention() -> None:
    model = tiny_model("bert")
    use_fast_dropout(model)
    assert ATTENTION_NAME not in model.config.to_json_string(use_diff=False)


def test_dropout_keeps_its_probability_mode_hooks_and_sharing() -> None:
    shared = nn.Dropout(0.3)
    calls: list[int] = []
    shared.register_forward_hook(lambda *_: calls.append(1))
    model = nn.Sequential(shared, nn.Linear(2, 2), shared).eval()
    assert use_fast_dropout(model) == 1
    assert model[0] is model[2]
    assert (model[0].p, model[0].training) == (0.3, False)
    model(torch.ones(1, 2))
    assert len(calls) == 2


def test_dropout_subclasses_and_in_place_dropout_are_left_to_pytorch() -> None:
    class OwnDropout(nn.Dropout):
        pass

    model = nn.Sequential(OwnDropout(0.5), nn.Dropout(0.5, inplace=True))
    assert use_fast_dropout(model) == 1
    assert type(model[0]) is OwnDropout
    x = torch.ones(100)
    model[1](x)
    assert (x == 0).any()
