"""Model outputs over a whole split, in the split's own order."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.batching import collate, evaluation_order
from bench.errors import Diverged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.base import Examples


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
