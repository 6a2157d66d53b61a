"""A model over the reported splits: its outputs in the splits' own order, and what the task makes of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.batching import collate, evaluation_order
from bench.errors import Diverged

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray

    from bench.backbone import Backbone
    from tasks.base import Examples, Scores, Task


@dataclass(frozen=True)
class Evaluation:
    """One form of a model on the reported splits: outputs and predictions per split, scores, seconds of the outputs."""

    outputs: dict[str, NDArray[np.float32]]
    predictions: dict[str, NDArray[Any]]
    scores: Scores
    seconds: float

    @property
    def examples(self) -> int:
        """Examples over all splits."""
        return sum(len(outputs) for outputs in self.outputs.values())


def evaluate(
    task: Task, base: Backbone, reported: Mapping[str, Examples], batch_size: int, runner: Accelerator
) -> Evaluation:
    """Score the model as it is now. Raises Diverged if an output is not finite."""
    start = time.perf_counter()
    found = {
        split: outputs(base.model, examples, batch_size, runner.device, runner.autocast(), base.padding_id)
        for split, examples in reported.items()
    }
    seconds = time.perf_counter() - start
    predictions = {split: task.predict(values) for split, values in found.items()}
    scores = task.score(predictions, {split: examples.labels for split, examples in reported.items()})
    return Evaluation(found, predictions, scores, seconds)


def outputs(
    model: Any,
    examples: Examples,
    batch_size: int,
    device: Any,
    autocast: AbstractContextManager[Any],
    padding_id: int = 0,
) -> NDArray[np.float32]:
    """Head outputs, shape (examples, outputs), float32. Raises Diverged if one is not finite."""
    import torch

    batches = evaluation_order(examples.lengths, batch_size)
    model.eval()
    collected = []
    with torch.inference_mode(), autocast:
        for indices in batches:
            inputs = collate(examples, indices, padding_id).on(device).inputs
            del inputs["labels"]
            collected.append(model(**inputs).logits.float())
    result = np.empty((len(examples), collected[0].shape[1]), np.float32)
    result[np.concatenate(batches)] = torch.cat(collected).cpu().numpy()
    if not np.isfinite(result).all():
        raise Diverged("the model's outputs are not finite")
    return result
