"""Batches from encoded examples: grouped by length inside shuffled buckets, padded to the longest, no workers.

Padding is most of the waste in short-text fine-tuning. Each epoch is one random permutation, cut into buckets of many
batches; inside a bucket examples are sorted by length and cut into batches, and the batches are shuffled. The order
depends on the seed alone, never on the method, the device or the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from tasks.base import Examples

BUCKET_BATCHES = 50


@dataclass(frozen=True)
class Batch:
    """Model input as tensors of shape (examples, longest), and how much of it is real.

    `inputs` has an attention mask only where the batch has padding.
    """

    inputs: dict[str, Tensor]
    samples: int
    tokens: int

    @property
    def shape(self) -> tuple[int, int]:
        """Examples and padded length."""
        samples, length = self.inputs["input_ids"].shape
        return samples, length

    def on(self, device: Any) -> Batch:
        """The batch on a device, copied without waiting."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(moved, self.samples, self.tokens)


def epoch_order(lengths: NDArray[np.int64], batch_size: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Example indices of each batch of one epoch; every example once, the last incomplete batch included."""
    permutation = random.permutation(len(lengths))
    bucket = batch_size * BUCKET_BATCHES
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(permutation), bucket):
        chosen = permutation[start : start + bucket]
        by_length = chosen[np.argsort(lengths[chosen], kind="stable")]
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def training_order(
    lengths: NDArray[np.int64], batch_size: int, steps: int, random: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Example indices of exactly `steps` batches, over as many epochs as that takes."""
    done = 0
    while done < steps:
        for batch in epoch_order(lengths, batch_size, random)[: steps - done]:
            done += 1
            yield batch


def evaluation_order(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Example indices of batches that cover every example once, longest first so that memory failures come early."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def collate(examples: Examples, indices: NDArray[np.int64], padding_id: int, left: bool = False) -> Batch:
    """The examples at `indices` as one padded batch with labels."""
    import torch

    lengths = examples.lengths[indices]
    longest = int(lengths.max())
    columns = np.arange(longest)
    first = longest - lengths if left else np.zeros_like(lengths)
    real = (columns >= first[:, None]) & (columns < (first + lengths)[:, None])
    positions = np.where(real, examples.offsets[indices][:, None] + columns - first[:, None], 0)
    inputs = {"input_ids": torch.from_numpy(np.where(real, examples.input_ids[positions], padding_id).astype(np.int64))}
    if examples.token_type_ids is not None:
        inputs["token_type_ids"] = torch.from_numpy(
            np.where(real, examples.token_type_ids[positions], 0).astype(np.int64)
        )
    if not real.all():
        inputs["attention_mask"] = torch.from_numpy(real.astype(np.int64))
    inputs["labels"] = torch.from_numpy(examples.labels[indices])
    return Batch(inputs, len(indices), int(lengths.sum()))


def micro_batches(indices: NDArray[np.int64], size: int | None) -> list[NDArray[np.int64]]:
    """One optimizer step's examples cut into forward passes of at most `size` examples."""
    if size is None or size >= len(indices):
        return [indices]
    return [indices[i : i + size] for i in range(0, len(indices), size)]
