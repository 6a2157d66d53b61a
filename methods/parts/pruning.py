"""Masked dense layers, and scores that say before training which weights to keep (SparseAdapter).

Scores and masks are lists of tensors, one per weight, in the order of the weights; the larger a score, the sooner its
weight is kept. The functions follow `src/transformers/pruning/pruners.py` of Shwai-He/SparseAdapter.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from methods.parts.bottleneck import Bottleneck, linear_of

GRASP_EPSILON = 1e-10
Losses = Callable[[], Iterable[Tensor]]


class MaskedLinear(nn.Linear):
    """y = (W * mask) x + b; what the mask (out, in) takes away has no part in the output and gets no gradient."""

    mask: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("mask", torch.ones(out_features, in_features, dtype=torch.bool))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return functional.linear(input, self.weight * self.mask, self.bias)

    def finished(self) -> nn.Linear:
        """The layer with zeros for the weights that the mask takes away."""
        return linear_of(self.weight * self.mask, self.bias)


def random_scores(weights: Sequence[Tensor], random: np.random.Generator) -> list[Tensor]:
    """Rand: standard normal numbers."""
    drawn = (random.standard_normal(tuple(weight.shape), dtype=np.float32) for weight in weights)
    return [torch.from_numpy(score).to(weight.device) for score, weight in zip(drawn, weights, strict=True)]


def magnitudes(weights: Sequence[Tensor]) -> list[Tensor]:
    """Mag: |theta|."""
    return [weight.detach().abs() for weight in weights]


def sensitivities(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """SNIP: |theta g|, with g the loss's gradient; this is |dL/dm| of a mask m of ones.

    Divided by their sum in units of the largest; an infinite score counts as 1 there.
    """
    raw = [(weight.detach() * gradient).abs() for weight, gradient in zip(weights, gradients, strict=True)]
    every = torch.cat([score.flatten() for score in raw])
    every = torch.where(every.isinf(), torch.ones_like(every), every)
    total = (every / every.max()).sum()
    return [score / total for score in raw]


def gradient_flows(weights: Sequence[Tensor], products: Sequence[Tensor]) -> list[Tensor]:
    """GraSP: theta H g with its sign, divided by the absolute value of the sum of all; `products` are H g."""
    raw = [weight.detach() * product for weight, product in zip(weights, products, strict=True)]
    total = torch.stack([score.sum() for score in raw]).sum().abs() + GRASP_EPSILON
    return [score / total for score in raw]


def synaptic_flows(adapters: Sequence[Bottleneck]) -> list[Tensor]:
    """SynFlow: |theta g| for D and U of every adapter, with all parameters replaced by their absolute values.

    g is the gradient of the mean output, summed over the adapters, of each adapter alone on an input of ones. The
    parameters themselves are not touched.
    """
    scores = []
    for adapter in adapters:
        positive = {name: tensor.detach().abs().requires_grad_() for name, tensor in adapter.named_parameters()}
        ones = torch.ones(1, positive["down.weight"].shape[1], device=positive["down.weight"].device)
        weights = [positive["down.weight"], positive["up.weight"]]
        gradients = torch.autograd.grad(functional_call(adapter, positive, (ones,)).mean(), weights)
        scores += [(weight * gradient).detach().abs() for weight, gradient in zip(weights, gradients, strict=True)]
    return scores


def summed_gradients(losses: Iterable[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """g: the sum over the losses of their gradients; nothing is left in `weights`.

    The first loss may be what moves the model to its device.
    """
    total: list[Tensor] = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, weights)
        if total:
            torch._foreach_add_(total, gradients)
        else:
            total = [gradient.clone() for gradient in gradients]
    return total


def hessian_gradient_products(losses: Losses, weights: Sequence[Tensor]) -> list[Tensor]:
    """H g: the gradient of the product of g, held fixed, with the gradient of the loss; sums over all losses.

    `losses` is called twice and has to give the same ones.
    """
    fixed = summed_gradients(losses(), weights)

    def products() -> Iterator[Tensor]:
        for loss in losses():
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            yield torch.stack([(a * b).sum() for a, b in zip(fixed, gradients, strict=True)]).sum()

    return summed_gradients(products(), weights)


def global_masks(scores: Sequence[Tensor], keep_ratio: float) -> list[Tensor]:
    """Keep what lies above the k-th smallest of all N scores, k = ceil((1 - keep_ratio) N)."""
    every = torch.cat([score.flatten() for score in scores])
    dropped = math.ceil((1 - keep_ratio) * every.numel())
    return [_above(score, every, dropped) for score in scores]


def local_masks(scores: Sequence[Tensor], keep_ratio: float) -> list[Tensor]:
    """Keep in every tensor of n what lies above its k-th smallest score, k = floor((1 - keep_ratio) n)."""
    return [_above(score, score.flatten(), int((1 - keep_ratio) * score.numel())) for score in scores]


def erdos_renyi_masks(weights: Sequence[Tensor], keep_ratio: float, random: np.random.Generator) -> list[Tensor]:
    """Random masks whose densities follow `erdos_renyi_densities`."""
    densities = erdos_renyi_densities([(weight.shape[0], weight.shape[1]) for weight in weights], keep_ratio)
    masks = []
    for weight, density in zip(weights, densities, strict=True):
        kept = random.permutation(weight.numel())[: round(density * weight.numel())]
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[torch.from_numpy(kept)] = True
        masks.append(mask.view_as(weight).to(weight.device))
    return masks


def erdos_renyi_densities(shapes: Sequence[tuple[int, int]], keep_ratio: float) -> list[float]:
    """Densities in proportion to (rows + columns) / (rows * columns), at most 1, that keep `keep_ratio` of all weights.

    A tensor that would need more than it has is kept whole, and the others share what is left.
    """
    whole: set[int] = set()
    while True:
        free = [index for index in range(len(shapes)) if index not in whole]
        left = keep_ratio * sum(math.prod(shape) for shape in shapes) - sum(math.prod(shapes[i]) for i in whole)
        factor = left / sum(sum(shapes[index]) for index in free) if free else 0.0
        full = {index for index in free if factor * sum(shapes[index]) >= math.prod(shapes[index])}
        if not full:
            return [1.0 if i in whole else factor * sum(s) / math.prod(s) for i, s in enumerate(shapes)]
        whole |= full


@contextlib.contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode, its half-precision weights are float32, and its attention can be
    differentiated twice; afterwards all is as it was.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    training = [module for module in model.modules() if module.training]
    halved = [(tensor, tensor.dtype) for tensor in model.parameters() if tensor.dtype in (torch.bfloat16, torch.half)]
    model.eval()
    for tensor, _ in halved:
        tensor.data = tensor.data.float()
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for tensor, dtype in halved:
            tensor.data = tensor.data.to(dtype)
        for module in training:
            module.training = True


def _above(score: Tensor, every: Tensor, dropped: int) -> Tensor:
    """Where a score lies above the number `dropped` of the smallest of `every`; everywhere if that is 0."""
    if dropped < 1:
        return torch.ones_like(score, dtype=torch.bool)
    # Not kthvalue: on CUDA it refuses to run where deterministic algorithms are asked for.
    return score > every.sort().values[dropped - 1]
