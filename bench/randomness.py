"""Independent random streams from one seed.

Head initialisation, method initialisation, data order and training noise draw from streams of their own, so that a
method that draws more numbers than another changes nothing but itself.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for the named stream of a run."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(stream.encode())])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int, stream: str) -> None:
    """Seed torch (all devices), numpy and random for the named stream."""
    import random

    import torch

    value = stream_seed(seed, stream)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def generator(seed: int, stream: str) -> np.random.Generator:
    """A numpy generator for the named stream."""
    return np.random.default_rng(stream_seed(seed, stream))
