"""A model over the reported splits: its answers in the splits' own order, and what the task makes of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.backbone.kinds import KINDS
from bench.errors import Diverged
from bench.generation import Completion, Decoding, complete, positions_from_masks
from bench.processes.team import ALONE, Team
from bench.training.batching import evaluation_order

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch import Tensor

    from bench.backbone.pretrained import Backbone
    from tasks.base import Examples, Scores, Task
    from tasks.batch import Batch
    from tasks.examples import ContinuationExamples
    from tasks.rows import Columns

COMPARED_PROMPTS = 64
"""Of a generation task, so many prompts' next-token logits are kept, for the comparison of two forms."""


@dataclass(frozen=True)
class Generation:
    """What a split's completions took: tokens made, and the share of texts that the limit ended."""

    new_tokens: int
    truncated_share: float


@dataclass(frozen=True)
class Evaluation:
    """One form of a model on the reported splits: outputs and predictions per split, scores, seconds of the answers."""

    outputs: dict[str, NDArray[np.float32]]
    predictions: dict[str, Columns]
    scores: Scores
    seconds: float
    examples: int
    generation: Generation | None = None


def evaluate(
    task: Task,
    base: Backbone,
    reported: Mapping[str, Examples],
    batch_size: int,
    runner: Accelerator,
    team: Team = ALONE,
) -> Evaluation:
    """Score the model as it is now; each process of the team answers its part of the examples.

    Raises Diverged if an output is not finite.
    """
    start = time.perf_counter()
    if KINDS[base.kind].answers == "completions":
        answers: dict[str, Any] = _completions(task, base, reported, batch_size, runner, team)
    else:
        answers = answers_of(base, reported, batch_size, runner, team)
    seconds = time.perf_counter() - start
    predictions = {split: task.predict(values, reported[split]) for split, values in answers.items()}
    scores = task.score(predictions, reported)
    examples = sum(len(split) for split in reported.values())
    if KINDS[base.kind].answers == "completions":
        outputs = answers_of(base, reported, batch_size, runner, team)
        made = [completion for split in answers.values() for completion in split]
        return Evaluation(outputs, predictions, scores, seconds, examples, _summary(made))
    return Evaluation(answers, predictions, scores, seconds, examples)


def answers_of(
    base: Backbone, reported: Mapping[str, Examples], batch_size: int, runner: Accelerator, team: Team = ALONE
) -> dict[str, NDArray[np.float32]]:
    """What is compared between two forms of a model: head outputs, log-likelihoods, or the next token's logits."""
    return {
        split: outputs(base, examples, batch_size, runner.device, runner.autocast(), team)
        for split, examples in reported.items()
    }


def outputs(
    base: Backbone,
    examples: Examples,
    batch_size: int,
    device: Any,
    autocast: AbstractContextManager[Any],
    team: Team = ALONE,
) -> NDArray[np.float32]:
    """Head outputs, (examples, outputs); log-likelihoods, (continuations,); or the logits of the token after some of
    the prompts, (prompts, vocabulary). All float32. Raises Diverged if one is not finite.
    """
    import torch

    answers = KINDS[base.kind].answers
    if answers == "likelihoods":
        return _log_likelihoods(base, examples, batch_size, device, autocast, team)  # type: ignore[arg-type]
    asks_prompts = answers == "completions"
    batches = evaluation_order(examples.lengths[: COMPARED_PROMPTS if asks_prompts else None], batch_size)
    base.model.eval()
    found = {}
    positions = positions_from_masks(base.model) if asks_prompts else contextlib.nullcontext()
    with torch.inference_mode(), autocast, positions:
        for number, indices in team.share(list(enumerate(batches))):
            batch = examples.question(indices).on(device)
            found[number] = head_outputs(base.model, batch)
    return _finite(_in_order(_on_host(found), batches, team))


def head_outputs(model: Any, batch: Batch) -> Any:
    """A tensor (examples, outputs), float32: one row per example, or the logits after its last token.

    A batch without labels holds prompts, of which a decoder need not work out the other tokens' logits.
    """
    options = {} if "labels" in batch.inputs else {"logits_to_keep": 1}
    logits = model(**batch.unlabelled, **options).logits.float()
    return logits[:, -1] if logits.ndim == 3 else logits.view(batch.samples, -1)


def _log_likelihoods(
    base: Backbone,
    examples: ContinuationExamples,
    batch_size: int,
    device: Any,
    autocast: AbstractContextManager[Any],
    team: Team,
) -> NDArray[np.float32]:
    """The log-likelihood of every continuation given its context, in nats, shape (continuations,)."""
    import torch
    from torch.nn.functional import cross_entropy

    base.model.eval()
    batches, found = evaluation_order(examples.lengths, batch_size), {}
    with torch.inference_mode(), autocast:
        for number, indices in team.share(list(enumerate(batches))):
            batch = examples.question(indices).on(device)
            labels = batch.inputs["labels"]
            logits = base.model(**batch.unlabelled).logits[:, -labels.shape[1] : -1].float()
            losses = cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
            found[number] = -losses.sum(1)
    return _finite(_in_order(_on_host(found), [examples.rows(indices) for indices in batches], team))


def _on_host(found: Mapping[int, Tensor]) -> dict[int, NDArray[np.float32]]:
    return {number: values.cpu().numpy() for number, values in found.items()}


def _in_order(
    found: Mapping[int, NDArray[np.float32]], rows: Sequence[NDArray[np.int64]], team: Team
) -> NDArray[np.float32]:
    """What all processes found for the batches, by the rows that the batches stand for."""
    values = np.concatenate(team.merged(found))
    result = np.empty_like(values)
    result[np.concatenate(rows)] = values
    return result


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise Diverged("the model's outputs are not finite")
    return values


def _completions(
    task: Any, base: Backbone, reported: Mapping[str, Examples], batch_size: int, runner: Accelerator, team: Team
) -> dict[str, list[Completion]]:
    decoding = Decoding(task.max_new_tokens, task.stops)
    return {
        split: complete(base, examples, decoding, batch_size, runner.device, runner.autocast(), team)
        for split, examples in reported.items()
    }


def _summary(completions: list[Completion]) -> Generation:
    truncated = sum(completion.truncated for completion in completions)
    return Generation(sum(completion.new_tokens for completion in completions), truncated / len(completions))
