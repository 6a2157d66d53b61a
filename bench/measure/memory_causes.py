"""Where training memory goes, by cause, from one real forward and backward pass.

Every tensor that autograd keeps for the backward pass goes through `saved_tensors_hooks`; the bytes of their distinct
storages, parameters and buffers excluded, are the activations: exact, the same on every device, and independent of
what an allocator caches. Scratch space that lives only within one operation is not part of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.training.shards import local

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's tensors at rest."""

    base: int
    method: int
    buffers: int

    @property
    def total(self) -> int:
        """Everything that the model holds."""
        return self.base + self.method + self.buffers


@dataclass
class SavedActivations:
    """The storages kept for the backward pass, filled while `watching`."""

    storages: dict[int, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of the distinct storages."""
        return sum(self.storages.values())


@contextlib.contextmanager
def watching(model: nn.Module) -> Iterator[SavedActivations]:
    """Collects what forward passes inside the block keep for their backward pass."""
    import torch

    own = _storages((*model.parameters(), *model.buffers())).keys()
    saved = SavedActivations()

    def keep(tensor: Tensor) -> Tensor:
        saved.storages |= {address: size for address, size in _storages([tensor]).items() if address not in own}
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def weights(model: nn.Module, base: Iterable[Tensor]) -> Weights:
    """Bytes of the model's parameters and buffers; `base` are the pretrained ones, whatever wraps them now."""
    pretrained = {id(parameter) for parameter in base}
    parameters = list(model.parameters())
    total = storage_bytes(parameters)
    of_base = storage_bytes(parameter for parameter in parameters if id(parameter) in pretrained)
    return Weights(of_base, total - of_base, storage_bytes(model.buffers()))


def gradients(model: nn.Module) -> int:
    """Bytes of the gradients that exist now."""
    return storage_bytes(parameter.grad for parameter in model.parameters() if parameter.grad is not None)


def optimizer_state(optimizer: Any) -> int:
    """Bytes of the tensors in an optimizer's state."""
    import torch

    values = (value for state in optimizer.state.values() for value in state.values())
    return storage_bytes(value for value in values if isinstance(value, torch.Tensor))


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind the tensors."""
    return sum(_storages(tensors).values())


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Sizes in bytes of the distinct storages behind the tensors, by address."""
    dense = (part for tensor in tensors for part in _dense_parts(tensor))
    return {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in dense}


def _dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor._indices(), tensor._values()) if tensor.is_sparse else (local(tensor),)
