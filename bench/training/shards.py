"""Tensors of which each process of a run holds a part (torch's DTensor)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def is_split(value: Any) -> bool:
    """Whether this process holds only a part of a tensor."""
    return hasattr(value, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if is_split(tensor) else tensor  # type: ignore[attr-defined]


def whole(value: Any) -> Any:
    """A tensor, or a structure of them, with what is split put together; all processes must call this alike."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(item) for item in value)
    return value.full_tensor() if is_split(value) else value


def like(value: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, split as `tensor` is."""
    if not is_split(tensor) or value.shape != tensor.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(tensor, DTensor)
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
