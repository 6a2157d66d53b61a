"""Independent random streams from one seed.

Head initialisation, method initialisation, data order and training noise draw from streams of their own, so that a
method that draws more numbers than another changes nothing but itself.
"""

from __future__ import annotations

import random
import zlib
from typing import Any

import numpy as np


def stream_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for the named stream of a run."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(stream.encode())])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int, stream: str) -> None:
    """Seed torch (all devices), numpy and random for the named stream."""
    import torch

    value = stream_seed(seed, stream)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def generator(seed: int, stream: str) -> np.random.Generator:
    """A numpy generator for the named stream."""
    return np.random.default_rng(stream_seed(seed, stream))


def random_state() -> dict[str, Any]:
    """The states of random, numpy and torch (the CPU and this process's GPU) as tensors and plain values."""
    import torch

    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Take back what `random_state` gave."""
    import torch

    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
