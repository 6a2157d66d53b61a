"""Factors that are trained combinations of random matrices (NOLA, Koohpayegani et al. 2024).

The random matrices, the *bases*, are neither trained nor stored: a seed brings them back in the forward pass and again
in the backward pass, or once, where memory may be spent on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from methods.parts.adapted_linear import LowRankLinear, zeros

CHUNK_NUMBERS = 2**22
"""Random numbers in memory at once where bases are drawn in every pass. CUDA's stream depends on it: keep it."""
SEEDS = 10**10
"""Seeds lie below this number, as in the authors' code."""
DRAWING_DEVICES = ("cpu", "cuda", "mps")
"""Kinds of device by the number that an adapter keeps: one seed gives other random numbers on each."""
UNDECIDED = -1


def chunks(seed: int, count: int, width: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """`count` bases of `width` numbers each, U(-1, 1), some at a time: their places, and (n, width) numbers.

    They come from a generator of their own. On the CPU they are those of one (count, width) tensor that is filled in
    one call after `torch.manual_seed(seed)`.
    """
    generator = torch.Generator(device).manual_seed(seed)
    rows = max(1, CHUNK_NUMBERS // width)
    for start in range(0, count, rows):
        places = slice(start, min(start + rows, count))
        numbers = torch.empty(places.stop - start, width, device=device)
        yield places, numbers.uniform_(-1, 1, generator=generator)


def bases(seed: int, count: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """All bases of a seed at once, (count, *shape), float32 on `device`."""
    numbers = [numbers for _, numbers in chunks(seed, count, shape[0] * shape[1], device)]
    return torch.cat(numbers).view(count, *shape)


def combination(coefficients: Tensor, kept: Tensor) -> Tensor:
    """sum_i a_i P_i in float32 also under autocast: (k,) and bases (k, rows, columns) to (rows, columns)."""
    with torch.autocast(coefficients.device.type, enabled=False):
        return (coefficients[None] @ kept.flatten(1)).view(kept.shape[1:])


def seeded_combination(coefficients: Tensor, seed: int, shape: tuple[int, int], drawing_device: torch.device) -> Tensor:
    """`combination` with the `bases` of a seed, of which no more than a chunk is in memory at any time."""
    apply: Callable[..., Tensor] = _SeededCombination.apply
    return apply(coefficients, seed, shape, drawing_device)


class _SeededCombination(torch.autograd.Function):
    """sum_i a_i P_i, whose backward pass draws every P_i again for dL/da_i = <dL/dA, P_i>."""

    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, seed: int, shape: tuple[int, int], drawing_device: torch.device
    ) -> Tensor:
        device, count, width = coefficients.device, len(coefficients), shape[0] * shape[1]
        ctx.drawn = (seed, count, width, drawing_device)
        combined = torch.zeros(1, width, device=device)
        with torch.autocast(device.type, enabled=False):
            for places, numbers in chunks(*ctx.drawn):
                combined.addmm_(coefficients[None, places], numbers.to(device))
        return combined.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        column = gradient.to(torch.float32).reshape(-1, 1)
        with torch.autocast(column.device.type, enabled=False):
            of_chunks = [numbers.to(column.device) @ column for _, numbers in chunks(*ctx.drawn)]
        return torch.cat(of_chunks).flatten(), None, None, None


class SeededBasisLinear(LowRankLinear):
    """A = A0 + sum_i a_i P_i / sqrt(k) and B = sum_j c_j Q_j / sqrt(k); P_i (rank, in) and Q_j (out, rank) ~ U(-1, 1).

    a and c, of k numbers each, start at 0 and are all that trains. A0 has LoRA's start and stays. `origin`, four int64,
    is all that is needed to have A0, P and Q again: their seeds, drawn here from torch's global stream, and the kind of
    device that draws P and Q. This is the CPU where `keep_bases` has them drawn once, and else the kind of device of
    the first pass; a model that moves to another kind still draws there. A0 is drawn on the CPU.
    """

    A0: Tensor
    origin: Tensor
    P: Tensor | None
    Q: Tensor | None

    def __init__(
        self, base: nn.Module, num_basis: int, rank: int, scaling: float, dropout: float, keep_bases: bool
    ) -> None:
        super().__init__(base, scaling, dropout)
        self.shapes = (rank, self.in_features), (self.out_features, rank)
        self.keep_bases = keep_bases
        self.a = zeros(num_basis, device=self.device)
        self.c = zeros(num_basis, device=self.device)
        self.register_buffer("origin", torch.tensor([*torch.randint(SEEDS, (3,)).tolist(), UNDECIDED]))
        for name in ("A0", "P", "Q"):
            self.register_buffer(name, None, persistent=False)
        self.regenerate()

    def regenerate(self) -> None:
        """Draw what stays in memory, as `origin` says: A0, and the bases where they are kept."""
        of_A0, of_P, of_Q, _ = self.origin.tolist()
        (rank, width_in), shape_B = self.shapes
        generator = torch.Generator().manual_seed(of_A0)
        bound = width_in**-0.5
        self.A0 = torch.empty(rank, width_in).uniform_(-bound, bound, generator=generator).to(self.device)
        if self.keep_bases:
            device = self._drawing_device(torch.device("cpu"))
            self.P = bases(of_P, len(self.a), (rank, width_in), device).to(self.device)
            self.Q = bases(of_Q, len(self.c), shape_B, device).to(self.device)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A, (rank, in), and B, (out, rank)."""
        if self.P is None or self.Q is None:
            _, of_P, of_Q, _ = self.origin.tolist()
            device = self._drawing_device(self.a.device)
            down = seeded_combination(self.a, of_P, self.shapes[0], device)
            up = seeded_combination(self.c, of_Q, self.shapes[1], device)
        else:
            down, up = combination(self.a, self.P), combination(self.c, self.Q)
        scale = len(self.a) ** -0.5
        return self.A0 + down * scale, up * scale

    def _drawing_device(self, preferred: torch.device) -> torch.device:
        """Where P and Q are drawn; `preferred` decides it where nothing has been drawn yet."""
        number = int(self.origin[-1])
        if number == UNDECIDED:
            self.origin[-1] = number = DRAWING_DEVICES.index(preferred.type)
        kind = DRAWING_DEVICES[number]
        return preferred if preferred.type == kind else torch.device(kind)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SeededBasisLinear:
        """Move the layer, but not `origin`: from another device, reading a seed would wait for that in every pass."""
        origin = self.origin
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.origin = origin
        return self


class HeldBases(nn.Module):
    """P, (k, rank, in), and Q, (k, out, rank), in memory: a module, so that layers still share them when it moves."""

    P: Tensor
    Q: Tensor

    def __init__(self, P: Tensor, Q: Tensor) -> None:
        super().__init__()
        self.register_buffer("P", P, persistent=False)
        self.register_buffer("Q", Q, persistent=False)


class HeldBasisLinear(LowRankLinear):
    """A = sum_i a_i P_i and B = sum_j c_j Q_j with a = c = 1 / k at the start, which is not the base layer."""

    def __init__(self, base: nn.Module, held: HeldBases, scaling: float, dropout: float) -> None:
        super().__init__(base, scaling, dropout)
        self.held = held.to(self.device)
        num_basis = len(held.P)
        self.a = nn.Parameter(torch.full((num_basis,), 1 / num_basis, device=self.device))
        self.c = nn.Parameter(torch.full((num_basis,), 1 / num_basis, device=self.device))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A, (rank, in), and B, (out, rank)."""
        return combination(self.a, self.held.P), combination(self.c, self.held.Q)


def vit_bases(num_basis: int, rank: int, width_in: int, width_out: int) -> HeldBases:
    """The bases of the authors' class NOLA2, which are the same for all layers of a shape.

    Drawn in its order and layout, (k, in, rank) and then (k, rank, out) after `torch.manual_seed(0)`, with
    `kaiming_uniform_` (a = sqrt(5)), whose fan-in is the product of the last two sizes.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for shape in ((width_in, rank), (rank, width_out)):
        bound = (shape[0] * shape[1]) ** -0.5
        numbers = torch.empty(num_basis, *shape).uniform_(-bound, bound, generator=generator)
        drawn.append(numbers.mT.contiguous())
    return HeldBases(*drawn)
