"""Which target layers are alike, for methods whose tensors serve several layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from methods.parts.linear import in_out_features

if TYPE_CHECKING:
    from bench.backbone.anatomy import Part

BLOCK_NUMBER = re.compile(r"\.\d+\.")


def projection(part: Part) -> str:
    """What the same projection of all blocks of a stack and of one shape has in common, as a name.

    The encoder's and the decoder's queries are two projections, and so are those of Swin stages of unequal width.
    """
    width_in, width_out = in_out_features(part.module)
    return f"{BLOCK_NUMBER.sub('.*.', part.name)} {width_out}x{width_in}"


def projections(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """The parts of every projection, in block order."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(projection(part), []).append(part)
    return groups
