"""FLOPs of training steps, counted from the operations that really run.

PyTorch's flop counter sees every operation of a forward and a backward pass, so the count follows the method: autograd
computes no weight gradient of a frozen weight and nothing below the first trainable parameter. Matrix products,
convolutions and attention count, 2 FLOPs per multiply-add; element-wise work does not. The backward pass of attention
counts as the four products that the mathematics needs, also where a kernel computes the scores a second time.

For a fixed model and method the count is a polynomial in the batch shape (examples B, length L),

    FLOPs(B, L) = c1 + c2 L + c3 L^2 + B (c4 + c5 L + c6 L^2),

so six small probes give it for every batch of the run, and at 512 tokens, without running those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

PROBES = tuple((samples, length) for samples in (1, 2) for length in (8, 16, 24))
TOLERANCE = 1e-2
"""Greatest relative deviation of a further pass from the polynomial at which it is believed; a method may do a little
more or less in its very first pass."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of forward and backward passes."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True)
class FlopsByShape:
    """The polynomials of one model and method."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]

    def of(self, samples: int, length: int) -> Flops:
        """FLOPs of one pass over `samples` examples padded to `length`."""
        terms = _terms(samples, length)
        return Flops(float(np.dot(terms, self.forward)), float(np.dot(terms, self.backward)))

    def over(self, shapes: Iterable[tuple[int, int]]) -> Flops:
        """FLOPs of all passes of these shapes."""
        passes = [self.of(*shape) for shape in shapes]
        return Flops(sum(one.forward for one in passes), sum(one.backward for one in passes))

    def agrees_with(self, counted: Flops, samples: int, length: int) -> bool:
        """Whether a counted pass lies on the polynomials."""
        expected = self.of(samples, length)
        pairs = ((counted.forward, expected.forward), (counted.backward, expected.backward))
        return all(abs(a - b) <= TOLERANCE * max(abs(a), 1.0) for a, b in pairs)


def by_shape(count_at: Callable[[int, int], Flops]) -> FlopsByShape:
    """The polynomials through the probes that `count_at` counts."""
    counted = [count_at(*shape) for shape in PROBES]
    matrix = np.array([_terms(*shape) for shape in PROBES], float)
    forward = np.linalg.solve(matrix, [one.forward for one in counted])
    backward = np.linalg.solve(matrix, [one.backward for one in counted])
    return FlopsByShape(tuple(forward.tolist()), tuple(backward.tolist()))


def of_training(loss_of: Callable[[], Tensor]) -> Flops:
    """FLOPs of computing the loss and of its backward pass; leaves gradients behind."""
    import torch

    with _counting() as forward:
        loss = loss_of()
    with _counting() as backward:
        torch.autograd.backward(loss)
    return Flops(forward.flops, backward.flops)


def of_inference(model: nn.Module, inputs: dict[str, Tensor]) -> Flops:
    """FLOPs of one forward pass without gradients."""
    import torch

    with torch.no_grad(), _counting() as forward:
        model(**inputs)
    return Flops(forward.flops, 0.0)


def _terms(samples: int, length: int) -> list[int]:
    per_pass = [1, length, length**2]
    return [*per_pass, *(samples * term for term in per_pass)]


def _counting() -> Any:
    """A context that adds up `flops` of the operations inside, by PyTorch's own formulas and two of ours.

    PyTorch's `FlopCounterMode` does the same per module, at twice the cost. Ours are attention on the CPU, which it
    does not know, and the backward pass of attention, where it counts the recomputed scores.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten
    attention: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        aten._scaled_dot_product_flash_attention_backward: _attention_backward,
        aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
        aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
    }

    class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
        flops = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            operation = func._overloadpacket
            if operation in attention:
                self.flops += attention[operation](*args)
            elif operation in flop_registry:
                self.flops += flop_registry[operation](*args, **(kwargs or {}), out_val=result)
            return result

    return Counting()  # type: ignore[no-untyped-call]


def _attention_forward(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """Scores and weighted values; shapes (batch, heads, length, width)."""
    batch, heads, queries, width = query.shape
    return 2 * batch * heads * queries * key.shape[-2] * (width + value.shape[-1])


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any) -> int:
    """Gradients of weights, values, queries and keys: two products for each of the forward pass."""
    return 2 * _attention_forward(query, key, value)
