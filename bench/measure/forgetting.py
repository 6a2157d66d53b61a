"""Forgetting: how far the adapted backbone has moved from the pretrained one, on fixed built-in passages.

    feature_distance   = ||F - F0|| / ||F0||                             (Frobenius norms)
    feature_cka        = ||Fc' F0c||^2 / (||Fc' Fc|| ||F0c' F0c||)       (Kornblith et al. 2019, arXiv:1905.00414)
    language_loss_rise = L - L0

F (tokens x width) holds the backbone's last hidden state at every real token of the passages, Fc the same with every
column centred, L is the mean cross-entropy in nats per predicted token; index 0 is the untouched base. L is read
through the checkpoint's own, unadapted language-model head: a causal head predicts every token but the first, a masked
one every seventh token of a passage, all of these at once behind the mask token. Tokens that the tokenizer adds by
itself count as features but are never predicted. The head computes in float32 whatever the run computes in.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.backbone.pretrained import LanguageHead, fresh, language_head, tokenizer
from bench.errors import Diverged
from bench.measure.passages import in_batches
from bench.training.without_trace import without_trace

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbone.pretrained import Backbone
    from bench.measure.passages import Passages
    from bench.settings import ModelSettings


@dataclass(frozen=True)
class Observation:
    """What a backbone makes of the passages.

    `features` has shape (real tokens, width), float32 on the CPU; `language_loss` is in nats per predicted token, None
    where the checkpoint has no language-model head.
    """

    features: Tensor
    language_loss: float | None


@dataclass(frozen=True)
class Forgetting:
    """An observation against that of the untouched base; the rise is in nats per predicted token."""

    feature_cka: float
    feature_distance: float
    language_loss_rise: float | None


def compare(base: Observation, adapted: Observation) -> Forgetting:
    """The distance of an adapted backbone from the base."""
    before, after = base.features.double(), adapted.features.double()
    rise = None
    if base.language_loss is not None and adapted.language_loss is not None:
        rise = adapted.language_loss - base.language_loss
    return Forgetting(linear_cka(before, after), float((after - before).norm() / before.norm()), rise)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same tokens, shapes (tokens, any width).

    Between 0 and 1; 1 if they agree up to rotation and one common scale, 0 also if either does not vary at all.
    """
    x, y = (features.double() - features.double().mean(dim=0) for features in (x, y))
    scale = float((x.T @ x).norm() * (y.T @ y).norm())
    return float((x.T @ y).square().sum()) / scale if scale else 0.0


def language_head_reason(settings: ModelSettings) -> str | None:
    """Why a checkpoint has no language loss; None where it has one."""
    head = language_head(settings)
    return head if isinstance(head, str) else None


@functools.lru_cache(maxsize=8)
def base_observation(
    settings: ModelSettings,
    kind: str,
    outputs: int,
    device: str,
    precision: str,
    trained: frozenset[str] = frozenset(),
) -> Observation:
    """The untouched model, computed in `precision` from weights stored as a run stores them.

    `trained` names the pretrained tensors that the run trains and so keeps in float32. The model's random head plays no
    part in it.
    """
    import torch

    from bench.training.loop import accelerator, store_frozen_in

    with torch.random.fork_rng(devices=[]):
        base = fresh(settings, kind, outputs)
    for name, parameter in base.model.named_parameters():
        parameter.requires_grad_(name in trained)
    store_frozen_in(base.model, precision)
    runner = accelerator(device, precision)
    base.model.to(runner.device)
    return observe(base, settings, runner.device, runner.autocast())


def observe(
    backbone: Backbone, settings: ModelSettings, device: Any, autocast: AbstractContextManager[Any]
) -> Observation:
    """The backbone of `backbone.model` on the passages, with method and task head in place and in evaluation mode.

    The model, which must lie on `device`, and the random states are left as they were. Raises Diverged if a feature is
    not finite.
    """
    import torch

    head = language_head(settings)
    batches = [batch.on(device) for batch in in_batches(settings)]
    with without_trace(backbone.model), torch.inference_mode():
        backbone.model.eval()
        with autocast:
            plain = [_last_hidden_state(backbone, batch.inputs) for batch in batches]
            predicting = plain
            if isinstance(head, LanguageHead) and not head.causal:
                mask_token = tokenizer(settings).mask_token_id
                predicting = [_last_hidden_state(backbone, batch.with_gaps(mask_token)) for batch in batches]
        features = torch.cat([states[batch.real] for states, batch in zip(plain, batches, strict=True)]).float().cpu()
        if not features.isfinite().all():
            raise Diverged("the backbone's features are not finite")
        return Observation(features, None if isinstance(head, str) else _language_loss(head, predicting, batches))


def _last_hidden_state(backbone: Backbone, inputs: dict[str, Tensor]) -> Tensor:
    """What the backbone puts out at the positions of the input, shape (passages, longest, width).

    A soft prompt lies before the input; a method that narrows the output to what the task head reads does so in a
    forward hook, ahead of which this one is called.
    """
    captured: list[Tensor] = []
    hook = backbone.anatomy.backbone.register_forward_hook(
        lambda _, __, output: captured.append(output[0]), prepend=True
    )
    try:
        backbone.model(**inputs)
    finally:
        hook.remove()
    return captured[0][:, -inputs["input_ids"].shape[1] :]


def _language_loss(head: LanguageHead, states: Sequence[Tensor], batches: Sequence[Passages]) -> float:
    """Mean cross-entropy of the head's predictions from the backbone's last hidden states."""
    import torch
    from torch.nn.functional import cross_entropy

    weights = {name: weight.to(states[0].device) for name, weight in head.model.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    predictions = 0
    for hidden, targets in _predictions(head.causal, states, batches):
        output = torch.func.functional_call(head.model, weights, kwargs={"inputs_embeds": hidden[None].float()})
        total += cross_entropy(output.logits[0], targets, reduction="sum").cpu()
        predictions += len(targets)
    return float(total) / predictions


def _predictions(
    causal: bool, states: Sequence[Tensor], batches: Sequence[Passages]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per batch the states (predictions, width) to predict from, and the tokens to predict."""
    for hidden, batch in zip(states, batches, strict=True):
        tokens = batch.inputs["input_ids"]
        if causal:
            text = batch.text[:, 1:]
            yield hidden[:, :-1][text], tokens[:, 1:][text]
        else:
            yield hidden[batch.gaps], tokens[batch.gaps]
