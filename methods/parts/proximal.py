"""Vectors that training drives to exact zeros: their L1 term, and the step that zeroes them.

A step takes all vectors at once, stacked: (layers, rank).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


def soft_threshold(values: Tensor, xi: float) -> Tensor:
    """T_xi(v) = sign(v) max(|v| - xi, 0), the proximal operator of xi |v|; any shape."""
    return values.sign() * (values.abs() - xi).clamp(min=0)


def shrink_then_cut(values: Tensor, xi: float) -> Tensor:
    """What the released code of SoRA does (src/sparse_optimizer.py); any shape.

    Values beyond xi come closer to 0 by xi, then all that are now below xi become 0. So everything below 2 xi goes,
    but for a value of exactly xi, which neither line touches.
    """
    shrunk = torch.where(values.abs() > xi, values - xi * values.sign(), values)
    return torch.where(shrunk.abs() < xi, 0.0, shrunk)


OPERATORS: Mapping[str, Callable[[Tensor, float], Tensor]] = {"official": shrink_then_cut, "soft": soft_threshold}


@torch.no_grad()
def apply_to_all(operator: Callable[[Tensor, float], Tensor], vectors: Sequence[nn.Parameter], xi: float) -> None:
    """Put operator(v, xi) in the place of every vector v; all have one length."""
    torch._foreach_copy_(list(vectors), list(operator(torch.stack(list(vectors)), xi).unbind()))


def mean_magnitude(vectors: Sequence[Tensor]) -> Tensor:
    """The sum of |v_i| over all entries of all vectors, divided by the number of entries."""
    return torch.cat(list(vectors)).abs().mean()
