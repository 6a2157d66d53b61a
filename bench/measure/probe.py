"""Passes over small or extreme batches before the first step, for the meters; they leave no trace in the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.measure import compute, memory_causes
from bench.training.without_trace import without_trace

if TYPE_CHECKING:
    from torch import nn

    from bench.measure.compute import Flops, FlopsByShape
    from bench.training.loop import TrainingLoop
    from tasks.batch import Batch


@dataclass(frozen=True)
class Pass:
    """What one forward and backward pass showed."""

    shape: tuple[int, int]
    activation_bytes: int
    gradient_bytes: int
    flops: Flops


def one_pass(loop: TrainingLoop, batch: Batch) -> Pass:
    """Bytes kept for the backward pass, bytes of the gradients that this leaves, and FLOPs."""
    model = loop.model
    with without_trace(model):
        with memory_causes.watching(model) as saved:
            flops = compute.of_training(lambda: loop.loss(batch))
        return Pass(batch.shape, saved.bytes, memory_causes.gradients(model), flops)


def training_flops(loop: TrainingLoop, batch: Batch, check: Pass) -> FlopsByShape:
    """FLOPs of the run's passes by shape. Raises ValueError where `check`, another pass, disagrees."""

    def count(samples: int, length: int) -> Flops:
        loop.model.zero_grad(set_to_none=True)
        return compute.of_training(lambda: loop.loss(batch.resized(samples, length)))

    with without_trace(loop.model):
        found = compute.by_shape(count)
    if not found.agrees_with(check.flops, *check.shape):
        raise ValueError("the FLOPs of this method do not follow from the batch's shape")
    return found


def inference_flops(model: nn.Module, batch: Batch) -> FlopsByShape:
    """FLOPs of the model's forward passes by shape."""

    def count(samples: int, tokens: int) -> Flops:
        return compute.of_inference(model, batch.resized(samples, tokens).unlabelled)

    with without_trace(model):
        return compute.by_shape(count)
