"""What methods ask of a frozen linear layer: its widths, its weight, another layer in its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_linear(module: nn.Module) -> bool:
    """Whether `module` computes W x + b."""
    return isinstance(module, nn.Linear)


def in_out_features(layer: nn.Module) -> tuple[int, int]:
    """The layer's input and output width."""
    rows, columns = layer.get_parameter("weight").shape
    return columns, rows


def weight_of(layer: nn.Module) -> Tensor:
    """The layer's weight, (out, in), in float32; a view where it is that already."""
    return layer.get_parameter("weight").detach().to(torch.float32)


@torch.no_grad()
def set_weight(layer: nn.Module, weight: Tensor) -> None:
    """Replace the layer's weight by `weight`, (out, in), kept in the layer's dtype."""
    layer.get_parameter("weight").copy_(weight)


@torch.no_grad()
def add_to_weight(layer: nn.Module, delta: Tensor) -> None:
    """Add `delta`, (out, in), to the layer's weight; the sum is computed in delta's dtype, kept in the weight's."""
    set_weight(layer, weight_of(layer).to(delta.dtype) + delta)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule called `name`."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
