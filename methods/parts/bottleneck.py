"""The bottleneck module of every adapter variant, and the forward hooks that connect it to a transformer block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

INITIAL_STD = 0.02


class Bottleneck(nn.Module):
    """f(z) = dropout(s * (U act(D z + b_D) + b_U)), with D (size, width) and U (width, size), all float32.

    Biases start at 0. With `zero_up` D is Kaiming-uniform and U zero, so that f starts as 0 (He et al. 2022);
    otherwise both are normal with standard deviation 0.02 and f starts small (`init_weights` "mam_adapter" and "bert"
    of the adapters library). A learned scale is one trainable number that starts at `scale`.

    The hooks are methods of the module and not closures, so that a deep copy of the model keeps its own adapters.
    """

    def __init__(
        self,
        width: int,
        size: int,
        activation: nn.Module,
        scale: float = 1.0,
        dropout: float = 0.0,
        learned_scale: bool = False,
        zero_up: bool = False,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.activation = activation
        self.up = nn.Linear(size, width)
        self.scale: nn.Parameter | float = nn.Parameter(torch.full((1,), float(scale))) if learned_scale else scale
        self.dropout = nn.Dropout(dropout)
        self._input: Tensor | None = None
        self._initialise(zero_up)

    def _initialise(self, zero_up: bool) -> None:
        """Weights and biases; `nn.Linear` itself starts Kaiming-uniform with a = sqrt(5), as `zero_up` wants D."""
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)
        if zero_up:
            nn.init.zeros_(self.up.weight)
        else:
            nn.init.normal_(self.down.weight, std=INITIAL_STD)
            nn.init.normal_(self.up.weight, std=INITIAL_STD)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        update = self.up(self.activation(self.down(hidden.to(self.down.weight.dtype))))
        return self.dropout(update * self.scale)

    def after_output(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook: h becomes h + f(h)."""
        return self._add(output, output)

    def after_block(
        self, block: nn.Module, arguments: tuple[Any, ...], output: Tensor | tuple[Any, ...]
    ) -> Tensor | tuple[Any, ...]:
        """Forward hook of a block, whose output z, alone or the first of several, becomes z + f(z)."""
        if isinstance(output, Tensor):
            return self._add(output, output)
        return (self._add(output[0], output[0]), *output[1:])

    def before_norm(self, norm: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward pre-hook of a layer norm: its input s becomes s + f(norm(s)), so the norm runs twice."""
        (summed,) = arguments
        return (self._add(summed, norm.forward(summed)),)

    def read_input(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Forward pre-hook: remember x, what a sublayer reads, for `beside_output`."""
        (self._input,) = arguments

    def beside_output(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook: h becomes h + f(x)."""
        assert self._input is not None
        read, self._input = self._input, None
        return self._add(output, read)

    def _add(self, stream: Tensor, read: Tensor) -> Tensor:
        """stream + f(read), in the dtype of `stream`."""
        return stream + self(read).to(stream.dtype)
