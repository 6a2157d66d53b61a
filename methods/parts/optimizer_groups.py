"""Optimizer groups of methods whose tensors are not all trained alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def with_own_group(
    groups: Sequence[Mapping[str, Any]], tensors: Iterable[nn.Parameter], **options: Any
) -> list[dict[str, Any]]:
    """The groups with `tensors` taken out of those they are in and put, each once, into one of their own, the last."""
    own = {id(tensor): tensor for tensor in tensors}
    rest = [dict(group, params=[p for p in group["params"] if id(p) not in own]) for group in groups]
    return [group for group in (*rest, {"params": list(own.values()), **options}) if group["params"]]
