"""GPT-2 with one linear layer per projection, as every other family has them.

transformers keeps GPT-2's query, key and value in one `Conv1D`, whose weight is (in, out). A method that adapts queries
and values would adapt the keys as well there, and half of HF PEFT's methods know no `Conv1D` at all. Taken apart, the
same weights compute the same model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

FUSED = "c_attn"
"""Name of the layer that holds query, key and value side by side."""


class Projections(nn.Module):
    """Query, key and value of one attention layer; their outputs (..., width) side by side: (..., 3 * width)."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear) -> None:
        super().__init__()
        self.query = query
        self.key = key
        self.value = value

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) to (..., 3 * width)."""
        return torch.cat((self.query(hidden), self.key(hidden), self.value(hidden)), dim=-1)


def take_apart(model: nn.Module) -> None:
    """Put linear layers in the place of every `Conv1D` of the model, three in that of a fused one; in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                columns = child.weight.chunk(3 if name == FUSED else 1, dim=1)
                biases = child.bias.chunk(len(columns))
                layers = [_linear(weight, bias) for weight, bias in zip(columns, biases, strict=True)]
                setattr(parent, name, Projections(*layers) if name == FUSED else layers[0])


def _linear(columns: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer with a weight of (in, out) columns."""
    width_in, width_out = columns.shape
    layer = nn.Linear(width_in, width_out, device="meta")
    layer.weight = nn.Parameter(columns.detach().mT.contiguous())
    layer.bias = nn.Parameter(bias.detach().clone())
    return layer
