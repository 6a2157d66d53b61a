"""VTAB-1k's official subsets, rebuilt without TensorFlow Datasets (TFDS), and a substitute where that is impossible.

VTAB takes its 800 + 200 examples off the front of splits as TFDS stores them, which is not the order of the original
files: TFDS sorts the examples of a split by MD5(split name + key), where the key is a text that identifies an example
in its source (tensorflow_datasets/core/hashing.py). Where the key is the row number in the original file, the subsets
follow from the number of rows alone.

Source: google-research/task_adaptation (task_adaptation/data), whose classes say how splits are cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

TRAIN_EXAMPLES = 800
VALIDATION_EXAMPLES = 200
SUBSETS = ("train800", "val200", "train800val200", "test")
RESAMPLING_SEED = 20_191_004


@dataclass(frozen=True)
class Slice:
    """Positions `start` to `stop` of one source split of `size` rows in TFDS order; row i has the key `prefix`i."""

    split: str
    size: int
    start: int
    stop: int
    prefix: str = ""

    def rows(self, at_most: int | None = None) -> NDArray[np.int64]:
        """Row numbers in the split's original file, the first `at_most` of the slice or all of it."""
        stop = self.stop if at_most is None else min(self.stop, self.start + at_most)
        return _row_order(self.split, self.size, self.prefix)[self.start : stop]


@dataclass(frozen=True)
class Cut:
    """VTAB's own train, validation and test splits of a data set."""

    train: Slice
    validation: Slice
    test: Slice


CUTS = {
    "cifar100": Cut(
        Slice("train", 50_000, 0, 45_000), Slice("train", 50_000, 45_000, 50_000), Slice("test", 10_000, 0, 10_000)
    ),
    "svhn": Cut(
        Slice("train", 73_257, 0, 65_931), Slice("train", 73_257, 65_931, 73_257), Slice("test", 26_032, 0, 26_032)
    ),
    "patch_camelyon": Cut(
        Slice("train", 262_144, 0, 262_144, "train_"),
        Slice("validation", 32_768, 0, 32_768, "valid_"),
        Slice("test", 32_768, 0, 32_768, "test_"),
    ),
    "dsprites": Cut(
        Slice("train", 737_280, 0, 589_824),
        Slice("train", 737_280, 589_824, 663_552),
        Slice("train", 737_280, 663_552, 737_280),
    ),
    # Validation is the first half of the source's test split, although the docstring of VTAB's class says otherwise.
    "smallnorb": Cut(
        Slice("train", 24_300, 0, 24_300), Slice("test", 24_300, 0, 12_150), Slice("test", 24_300, 12_150, 24_300)
    ),
}


def tfds_order(keys: Sequence[str], split: str) -> NDArray[np.int64]:
    """Positions of `keys` in the order in which TFDS stores the split `split`, shape (keys,).

    The digest is MD5 over the UTF-8 bytes of the split's name and then of the key, nothing between them; the order is
    that of the digests as 128-bit big-endian integers, ascending.
    """
    salt = split.encode()
    digests = b"".join([hashlib.md5(salt + key.encode(), usedforsecurity=False).digest() for key in keys])
    halves = np.frombuffer(digests, ">u8").reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0])).astype(np.int64)


def official_subset(dataset: str, subset: str) -> dict[str, NDArray[np.int64]]:
    """Row numbers of VTAB's subset in the original files, in TFDS order, by the source split that they belong to.

    `subset` is train800, val200, train800val200 (those two, one after the other) or test, which is never subsampled.
    Data sets with other keys than row numbers are not in `CUTS`: KeyError. Raises ValueError for another subset.
    """
    cut = CUTS[dataset]
    if subset == "test":
        return {cut.test.split: cut.test.rows()}
    if subset not in SUBSETS:
        raise ValueError(f"VTAB has the subsets {', '.join(SUBSETS)}, not '{subset}'")
    rows: dict[str, NDArray[np.int64]] = {}
    if subset.startswith("train800"):
        rows[cut.train.split] = cut.train.rows(TRAIN_EXAMPLES)
    if subset.endswith("val200"):
        validation = cut.validation.rows(VALIDATION_EXAMPLES)
        rows[cut.validation.split] = np.concatenate([rows.get(cut.validation.split, validation[:0]), validation])
    return rows


def resampled_subset(
    train_pool: int, validation_pool: int | None = None, seed: int = RESAMPLING_SEED
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """800 and 200 row numbers for data without keys: a substitute, not comparable with the official subset.

    The pools are numbers of rows. Both draws are without replacement and regardless of class. Without a validation
    pool both come from the train pool, with no row in common. Raises ValueError if a pool is too small.
    """
    random = np.random.default_rng(seed)
    if validation_pool is None:
        drawn = _draw(random, train_pool, TRAIN_EXAMPLES + VALIDATION_EXAMPLES)
        return drawn[:TRAIN_EXAMPLES], drawn[TRAIN_EXAMPLES:]
    return _draw(random, train_pool, TRAIN_EXAMPLES), _draw(random, validation_pool, VALIDATION_EXAMPLES)


def _draw(random: np.random.Generator, pool: int, count: int) -> NDArray[np.int64]:
    if pool < count:
        raise ValueError(f"{count} examples cannot be drawn from a pool of {pool}")
    return random.permutation(pool)[:count]


@cache
def _row_order(split: str, size: int, prefix: str) -> NDArray[np.int64]:
    """TFDS order of a split whose keys are row numbers; kept, as 737,280 digests take two seconds."""
    order = tfds_order([f"{prefix}{row}" for row in range(size)], split)
    order.flags.writeable = False
    return order
