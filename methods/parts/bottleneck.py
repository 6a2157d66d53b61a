"""The bottleneck module of every adapter method, the layers it is made of, and its places in a transformer block."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.backbone.anatomy import Anatomy

INITIAL_STD = 0.02
DENSE_LAYERS = {"attention": "attention.output", "ffn": "ffn.down"}
Reads = Literal["dense", "output", "input", "sum"]


class Bottleneck(nn.Module):
    """f(z) = dropout(s * up(activation(down(z)))), with float32 parameters.

    `down` takes (..., width) to (..., size) and `up` goes back: two dense layers (`dense_pair`), or what a method has
    in their places. A learned scale s is one trainable number that starts at `scale`.

    The hooks are methods of the module and not closures, so that a deep copy of the model keeps its own adapters.
    """

    def __init__(
        self,
        down: nn.Module,
        activation: nn.Module,
        up: nn.Module,
        scale: float = 1.0,
        dropout: float = 0.0,
        learned_scale: bool = False,
    ) -> None:
        super().__init__()
        self.down = down
        self.activation = activation
        self.up = up
        self.scale: nn.Parameter | float = nn.Parameter(torch.full((1,), float(scale))) if learned_scale else scale
        self.dropout = nn.Dropout(dropout)
        self._input: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        update: Tensor = self.up(self.activation(self.down(hidden.to(torch.float32))))
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


def dense_pair(width: int, size: int, zero_up: bool = False) -> tuple[nn.Linear, nn.Linear]:
    """D, (size, width), and U, (width, size), as `initialise` has them start."""
    down, up = nn.Linear(width, size), nn.Linear(size, width)
    initialise(down, up, zero_up)
    return down, up


def initialise(down: nn.Linear, up: nn.Linear, zero_up: bool = False) -> None:
    """Start an adapter's two layers, fresh from their constructors, with biases of 0.

    With `zero_up` D stays Kaiming-uniform (a = sqrt(5), as `nn.Linear` has it) and U is zero, so that the adapter
    starts as 0 (He et al. 2022); otherwise both are normal with standard deviation 0.02 and it starts small
    (`init_weights` "mam_adapter" and "bert" of the adapters library).
    """
    nn.init.zeros_(down.bias)
    nn.init.zeros_(up.bias)
    if zero_up:
        nn.init.zeros_(up.weight)
    else:
        nn.init.normal_(down.weight, std=INITIAL_STD)
        nn.init.normal_(up.weight, std=INITIAL_STD)


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A dense layer with copies of `weight`, (out, in), and `bias`, (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (nn.Parameter(tensor.detach().clone()) for tensor in (weight, bias))
    return layer


def connect(adapter: Bottleneck, anatomy: Anatomy, block: int, sublayer: str, reads: Reads) -> None:
    """Hook the adapter into a sublayer ("attention" or "ffn") of block number `block`.

    With x the feed-forward layer's input and h a sublayer's contribution to the residual stream, what it reads is:

    - "output": h, to which it is added;
    - "dense": h before the sublayer's own dropout and layer scale, to which it is added;
    - "input": x; it is added to h;
    - "sum": x + h after the norm of a post-norm block; it is added to x + h.
    """
    output = part(anatomy, f"sublayer.{sublayer}_output", block)
    if reads == "output":
        output.register_forward_hook(adapter.after_output)
    elif reads == "dense":
        part(anatomy, DENSE_LAYERS[sublayer], block).register_forward_hook(adapter.after_output)
    elif reads == "input":
        part(anatomy, "ffn.up", block).register_forward_pre_hook(adapter.read_input)
        output.register_forward_hook(adapter.beside_output)
    elif anatomy.family.pre_norm:
        anatomy.blocks[block][1].register_forward_hook(adapter.after_block)
    else:
        part(anatomy, "norm.ffn", block).register_forward_pre_hook(adapter.before_norm)


def part(anatomy: Anatomy, role: str, block: int) -> nn.Module:
    """The module that plays `role` in block number `block`."""
    return next(found.module for found in anatomy.find(role) if found.block == block)


def residual_norm(anatomy: Anatomy, block: int) -> Tensor:
    """The weight of a block's second norm: as wide as its residual stream, which in Swin grows from stage to stage."""
    return part(anatomy, "norm.ffn", block).get_parameter("weight")
