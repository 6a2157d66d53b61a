"""Which examples form a batch: grouped by length inside shuffled buckets, so that little is padded.

Padding is most of the waste in short-text fine-tuning. Each epoch is one random permutation, cut into buckets of many
batches; inside a bucket examples are sorted by length and cut into batches, and the batches are shuffled. A small set
is cut into several buckets all the same: sorted as a whole, its batches would hold what is alike in more than length,
and train worse. The order depends on the seed alone, never on the method, the device or the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUCKET_BATCHES = 50
FEWEST_BUCKETS = 8
"""Of an epoch that has as many batches."""


def epoch_order(lengths: NDArray[np.int64], batch_size: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Example indices of each batch of one epoch; every example once, the last incomplete batch included."""
    permutation = random.permutation(len(lengths))
    batches_per_epoch = -(-len(lengths) // batch_size)
    bucket = batch_size * max(min(BUCKET_BATCHES, batches_per_epoch // FEWEST_BUCKETS), 1)
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


def micro_batches(indices: NDArray[np.int64], size: int | None) -> list[NDArray[np.int64]]:
    """One optimizer step's examples cut into forward passes of at most `size` examples."""
    if size is None or size >= len(indices):
        return [indices]
    return [indices[i : i + size] for i in range(0, len(indices), size)]
