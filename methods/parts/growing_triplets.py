"""A linear layer that gains triplets in training, and the importance by which it gains them (IncreLoRA)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from methods.parts.adapted_linear import normal, zeros
from methods.parts.growing import Block, GrowingLinear
from methods.parts.triplets import smooth

RESERVE = 1e-5


class Triplets(Block):
    """b triplets: rows of A, (b, in), entries of E, (b, 1), columns of B, (out, b)."""

    def __init__(self, A: Tensor, E: Tensor, B: Tensor) -> None:
        super().__init__(A, B)
        self.E = nn.Parameter(E)


class TripletLinear(GrowingLinear):
    """y = W0 x + b + s B diag(E) A x, s = alpha / (rank + 1e-5): `loraW` and `SVDLinear` of the authors' code.

    Behind the triplets that count in `rank` waits a reserve of `block_rank` more. With advance learning its A and B
    train already while its E is frozen at 1e-5; without, its E is 0 and nothing in it trains. Growing makes the reserve
    count, lets its E train, and puts a new one behind it.
    """

    def __init__(
        self, base: nn.Module, rank: int, block_rank: int, alpha: float, dropout: float, advance_learning: bool
    ) -> None:
        super().__init__(base, rank, alpha, dropout)
        self.block_rank = block_rank
        self.advance_learning = advance_learning
        A = normal(rank, self.in_features, device=self.device)
        B = normal(self.out_features, rank, device=self.device)
        self.blocks.append(Triplets(A, zeros(rank, 1, device=self.device), B))
        self.reserve: Triplets | None = None
        self.reserve_acts = True
        """Whether the reserve's E may differ from 0."""
        self.watched = False
        """Whether the backward pass collects dL/d(dW)."""
        self.delta_gradient: Tensor | None = None
        """dL/d(dW), (out, in), summed over the backward passes since it was last taken."""

    @property
    def parts(self) -> Sequence[Triplets]:
        """The triplets that count, then the reserve."""
        return [*cast("list[Triplets]", self.blocks), *([] if self.reserve is None else [self.reserve])]

    def extend(self, random: np.random.Generator) -> list[nn.Parameter]:
        """Make the reserve count, if there is one, and put a new one behind it."""
        promoted, self.reserve = self.reserve, None
        joining = []
        if promoted is not None:
            self.blocks.append(promoted.requires_grad_())
            self.rank += self.block_rank
            joining = [promoted.E] if self.advance_learning else [promoted.E, promoted.A, promoted.B]
        self.reserve = self._new_reserve(random)
        return joining + ([self.reserve.A, self.reserve.B] if self.advance_learning else [])

    def _new_reserve(self, random: np.random.Generator) -> Triplets:
        A = self.drawn(random, self.block_rank, self.in_features)
        B = self.drawn(random, self.out_features, self.block_rank)
        E = torch.full((self.block_rank, 1), RESERVE if self.advance_learning else 0.0, device=self.device)
        reserve = Triplets(A, E, B).requires_grad_(self.advance_learning)
        reserve.E.requires_grad_(False)
        return reserve

    @torch.no_grad()
    def retire_reserve(self) -> None:
        """Zero the reserve's E for good; its A and B stay in the orthogonality term, and train where they did."""
        if self.reserve is not None:
            self.reserve.E.zero_()
        self.reserve_acts = False

    def grow_to(self, names: Collection[str], random: np.random.Generator) -> None:
        """Grow to the blocks of a saved layer, which has a reserve only where that acts."""
        super().grow_to(names, random)
        if not any(name.startswith("reserve.") for name in names):
            self.reserve = None
        elif self.reserve is None:
            self.extend(random)

    @staticmethod
    def factors_of(layers: Sequence[GrowingLinear], A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """s E A, (layers, rank, in), and B^T, (layers, rank, out), without a reserve that no longer acts."""
        alike = cast("Sequence[TripletLinear]", layers)
        E = torch.cat([part.E for layer in alike for part in layer.parts]).view(len(alike), -1, 1)
        rank = A.shape[1] if alike[0].reserve_acts else alike[0].rank
        return A[:, :rank] * (E[:, :rank] * alike[0].scaling), B[:, :rank]

    def update(self, hidden: Tensor) -> Tensor:
        """s B diag(E) A x; shows the backward pass to `collect` where the layer is watched."""
        update = super().update(hidden)
        if self.watched and update.requires_grad:
            update = _Watched.apply(update, hidden, self)  # type: ignore[no-untyped-call]
        return update

    def collect(self, hidden: Tensor, gradient: Tensor) -> None:
        """Add dL/d(dW) = sum of g x^T over all positions; x (..., in) of the update, and g (..., out) of its result."""
        product = gradient.flatten(0, -2).mT @ hidden.flatten(0, -2).to(gradient.dtype)
        if self.delta_gradient is None:
            self.delta_gradient = product.to(torch.float32)
        else:
            self.delta_gradient += product


class _Watched(torch.autograd.Function):
    """The identity on a watched layer's update; dW itself, as large as the weight, need not be made in the forward."""

    @staticmethod
    def forward(ctx: Any, update: Tensor, hidden: Tensor, layer: TripletLinear) -> Tensor:
        ctx.save_for_backward(hidden.to(update.dtype))
        ctx.layer = layer
        return update.view_as(update)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (hidden,) = ctx.saved_tensors
        ctx.layer.collect(hidden, gradient)
        return gradient, None, None


def sensitivity(delta: Tensor, gradient: Tensor) -> Tensor:
    """I = sum |dW * dL/d(dW)| / sqrt(out * in), of one layer: both (out, in) to a scalar."""
    return torch.linalg.vector_norm(delta * gradient, ord=1) / math.sqrt(delta.numel())


class LayerImportance:
    """Smoothed importance of every layer: Ibar and Ubar as in AdaLoRA, of I = sum |dW * dL/d(dW)| / sqrt(out * in)."""

    def __init__(self, layers: Sequence[TripletLinear], beta1: float, beta2: float) -> None:
        self.layers = layers
        self.betas = (beta1, beta2)
        self._loss_gradient: Tensor | None = None
        names = ("sensitivity", "uncertainty")
        self._averages = {name: torch.zeros(len(layers), device=layers[0].device) for name in names}

    def forget(self) -> None:
        """Drop the gradients collected so far: a step begins."""
        self._loss_gradient = None
        for layer in self.layers:
            layer.delta_gradient = None

    def watch(self, loss: Tensor) -> None:
        """Note how much the backward pass scales this loss: shares of micro-batches, and half precision's scale."""
        if loss.requires_grad:
            loss.register_hook(self._note_loss_gradient)  # type: ignore[no-untyped-call]

    def _note_loss_gradient(self, gradient: Tensor) -> None:
        self._loss_gradient = gradient if self._loss_gradient is None else self._loss_gradient + gradient

    @torch.no_grad()
    def update(self) -> None:
        """Take in the step's gradients, summed over its micro-batches and averaged over the processes."""
        assert self._loss_gradient is not None
        scale = _averaged(self._loss_gradient.clone())
        importance = torch.stack([self._sensitivity(layer) for layer in self.layers]) / scale
        usable = importance.isfinite().all()  # fp16 training skips steps whose gradients overflow
        before = {name: average.to(importance.device) for name, average in self._averages.items()}
        after = {name: average.clone() for name, average in before.items()}
        smooth(after["sensitivity"], after["uncertainty"], importance, *self.betas)
        self._averages = {name: torch.where(usable, after[name], before[name]) for name in before}

    def _sensitivity(self, layer: TripletLinear) -> Tensor:
        gradient, layer.delta_gradient = layer.delta_gradient, None
        assert gradient is not None
        return sensitivity(layer.delta_weight(), _averaged(gradient))

    def scores(self) -> Tensor:
        """Ibar * Ubar of every layer, (layers,)."""
        return self._averages["sensitivity"] * self._averages["uncertainty"]

    def state_dict(self) -> dict[str, Tensor]:
        """The moving averages."""
        return dict(self._averages)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self._averages = {name: average.clone() for name, average in state.items()}


def _averaged(tensor: Tensor) -> Tensor:
    """The mean over the processes of the run, in place: each has seen other examples."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
        tensor /= torch.distributed.get_world_size()
    return tensor
