"""Importance of the triplets of SVD-form updates, and their orthogonality (AdaLoRA, Zhang et al. 2023).

A triplet is one entry of E with its row of A and its column of B. Every function works on *stacks*: matrices of one
shape laid on top of each other, whose rows are triplets (A and E as they are, B transposed), so that a step costs a
few kernels however many layers are adapted, and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.parts.svd_linear import SVDLinear


def orthogonality(stack: Tensor) -> Tensor:
    """||G G^T - I||_F, not squared, of every matrix G: (n, rank, width) to (n,)."""
    identity = torch.eye(stack.shape[1], device=stack.device, dtype=stack.dtype)
    return torch.linalg.matrix_norm(stack @ stack.mT - identity)


def smooth(sensitivity: Tensor, uncertainty: Tensor, importance: Tensor, beta1: float, beta2: float) -> None:
    """Moving averages of I and of its distance to its own (new) average, in place; one shape; `importance` is used up.

    Section 3.2: Ibar = beta1 Ibar + (1 - beta1) I, then Ubar = beta2 Ubar + (1 - beta2) |I - Ibar|.
    """
    sensitivity.lerp_(importance, 1 - beta1)
    uncertainty.lerp_(importance.sub_(sensitivity).abs_(), 1 - beta2)


def update_importance(
    sensitivity: Tensor, uncertainty: Tensor, weight: Tensor, gradient: Tensor, beta1: float, beta2: float
) -> None:
    """Smooth I = |weight * gradient| in place; one shape."""
    smooth(sensitivity, uncertainty, (weight * gradient).abs_(), beta1, beta2)


def keep_mask(scores: Tensor, budget: int) -> Tensor:
    """Which triplets stay: those whose score is above the (count - budget)-th smallest; same shape as `scores`.

    Ties with the threshold go, so fewer than `budget` may stay.
    """
    pruned = scores.numel() - budget
    if pruned <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # Not kthvalue: on CUDA it refuses to run where deterministic algorithms are asked for.
    threshold = scores.flatten().sort().values[pruned - 1]
    return scores > threshold


def positions_by_width(matrices: Sequence[Tensor]) -> list[list[int]]:
    """Positions in `matrices` of those that can be stacked: equal last dimension, in order of first appearance."""
    groups: dict[int, list[int]] = {}
    for position, matrix in enumerate(matrices):
        groups.setdefault(matrix.shape[-1], []).append(position)
    return list(groups.values())


def stacks(matrices: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """One (n, rank, width) tensor for every group of positions in `matrices`."""
    return [torch.stack([matrices[position] for position in group]) for group in groups]


def mean_orthogonality(layers: Sequence[SVDLinear]) -> Tensor:
    """The mean of ||G - I||_F over all A (G = A A^T) and all B (G = B^T B) of `layers`."""
    matrices = [matrix for layer in layers for matrix in (layer.A, layer.B.mT)]
    # In half precision the difference to the identity would be noise.
    with torch.autocast(matrices[0].device.type, enabled=False):
        norms = [orthogonality(stack) for stack in stacks(matrices, positions_by_width(matrices))]
        return torch.cat(norms).mean()


class TripletImportance:
    """Smoothed importance of every entry of E, A and B of `layers`, and the mask on E that follows from it."""

    def __init__(self, layers: Sequence[SVDLinear], beta1: float, beta2: float) -> None:
        self.layers = layers
        self.betas = (beta1, beta2)
        self._groups = positions_by_width(self._weights())
        self._order = torch.tensor([position for group in self._groups for position in group]).argsort()
        self._sensitivity: list[Tensor] = []
        self._uncertainty: list[Tensor] = []
        self._scores: Tensor | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights and gradients."""
        weights, gradients = stacks(self._weights(), self._groups), stacks(self._gradients(), self._groups)
        for gradient in gradients:
            # fp16 training skips steps whose gradients overflow; they must not stay in the averages.
            gradient.nan_to_num_(0.0, 0.0, 0.0)
        if not self._sensitivity:
            self._sensitivity = [torch.zeros_like(stack) for stack in weights]
            self._uncertainty = [torch.zeros_like(stack) for stack in weights]
        for averages in zip(self._sensitivity, self._uncertainty, weights, gradients, strict=True):
            update_importance(*averages, *self.betas)
        self._scores = None

    @torch.no_grad()
    def scores(self) -> Tensor:
        """S = s(E_i) + mean s(A_i:) + mean s(B_:i) with s = Ibar * Ubar, for every triplet: (layers, rank)."""
        if self._scores is None:
            averages = zip(self._sensitivity, self._uncertainty, strict=True)
            means = torch.cat([(sensitivity * uncertainty).mean(-1) for sensitivity, uncertainty in averages])
            self._order = self._order.to(means.device)
            self._scores = means[self._order].view(len(self.layers), 3, -1).sum(1)
        return self._scores

    @torch.no_grad()
    def mask(self, budget: int) -> None:
        """Zero the entries of E of all but the `budget` most important triplets."""
        singular_values: list[Tensor] = [layer.E for layer in self.layers]
        keep = keep_mask(self.scores(), budget).to(singular_values[0].dtype).unsqueeze(-1)
        torch._foreach_mul_(singular_values, list(keep.unbind()))

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The moving averages; the mask follows from them."""
        return {"sensitivity": self._sensitivity, "uncertainty": self._uncertainty}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, on the layers' device."""
        device = self.layers[0].E.device
        self._sensitivity = [stack.to(device, copy=True) for stack in state["sensitivity"]]
        self._uncertainty = [stack.to(device, copy=True) for stack in state["uncertainty"]]
        self._scores = None

    def _weights(self) -> list[Tensor]:
        return [matrix.detach() for layer in self.layers for matrix in (layer.E, layer.A, layer.B.mT)]

    def _gradients(self) -> list[Tensor]:
        gradients = [(_gradient(layer.E), _gradient(layer.A), _gradient(layer.B).mT) for layer in self.layers]
        return [matrix for triplet in gradients for matrix in triplet]


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
