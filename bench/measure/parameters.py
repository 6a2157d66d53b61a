"""Parameter counts.

`trainable` are the method's own trainable parameters, without the task head; `total` is everything the model holds
while it trains. Tensors that share storage count once. The frozen copy of the head that PEFT keeps beside the one it
trains is an artefact of the library and counts nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from bench.backbone.anatomy import Anatomy

LIBRARY_COPY = "original_module."


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of scalar parameters."""

    trainable: int
    head: int
    total: int

    @property
    def trainable_percent(self) -> float:
        """The method's trainable parameters in percent of all parameters of the model that trains."""
        return 100 * self.trainable / self.total


def count(model: nn.Module, anatomy: Anatomy) -> ParameterCounts:
    """Count the parameters of a model in its trained form."""
    trainable = head = total = 0
    for name, parameter in _distinct(model):
        total += parameter.numel()
        if anatomy.is_head(name):
            head += parameter.numel()
        elif parameter.requires_grad:
            trainable += parameter.numel()
    return ParameterCounts(trainable, head, total)


def total(model: nn.Module) -> int:
    """All parameters of a model, shared tensors once."""
    return sum(parameter.numel() for _, parameter in _distinct(model))


def _distinct(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Named parameters, each storage once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if LIBRARY_COPY not in name)
