"""LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation.

Azizi, Kundu, Pedram 2024, arXiv:2406.12832 (Findings of EMNLP).

A small square matrix S trains between two factors, of which A never does and B only in the first part of the run:

    y = W0 x + b + s B S A x                             A (r, in), S (r, r), B (out, r), s = alpha / r

- `init=svd`: A = V_r^T, B = U_r, S = diag(sigma_1..sigma_r) / s from the decomposition W = U diag(sigma) V^T, and
  W0 = W - U_r diag(sigma_1..sigma_r) V_r^T;
- `init=lora`: A and S uniform as LoRA's A, B = 0, W0 = W. A column of B that is frozen before it has moved stays 0:
  the first one or several, in runs so short that learning rates still warm up then.

At optimizer step i of T the first f(i) = min(r, floor(r i / (eta T))) columns of B are frozen, the largest singular
directions first: after the backward pass their gradients are zeroed, and after the optimizer's step they are put back,
since AdamW's momentum and weight decay move them all the same. When f reaches r, B leaves the optimizer, its moments
are dropped and no gradient is computed for it any more.

LaMDA++ (`rank_allocation=spectrum`) gives every layer a rank of its own before training. With the candidates r/2, r and
3r/2 the layers are sorted by E = sum_{i<=r/2} sigma_i^2 / sum_{i<=3r/2} sigma_i^2, how much of its energy a layer keeps
at the smallest rank, and cut into three equal bins: the highest E gets the smallest rank. The mean stays r.

A saved adapter holds A beside S and B, so that it does not depend on the signs of singular vectors; the residual W0 is
computed anew from the base weights, in which signs fall out. In `CoreLinear` S is called C.

Reconstructed, since the authors' code (ArminAzizi98/LaMDA) has neither: `init=svd` in its details, and all of LaMDA++.
Deviations from that code: its schedule of freezing lacks the factor r and so freezes next to nothing; this one follows
the paper. Its frozen columns move through momentum and weight decay; these do not. It masks gradients before they are
clipped; here clipping comes first, so the frozen columns still count in the norm. S is float32 instead of bfloat16,
and merging takes S in, which theirs forgets. alpha is the rank, so that s = 1 (theirs 16 for rank 64), the rank is that
of their BART-large runs, S decays like any weight, as in theirs, and there is no dropout (theirs 0.1), which with
`init=svd` would fall on the largest part of the pretrained weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from bench.requirements import POSITIVE, PROBABILITY, SHARE, require_known, require_number
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbone.anatomy import Part
    from bench.backbone.pretrained import Backbone
    from methods.parts.decomposed_linear import CoreLinear
    from methods.parts.decompositions import SVD

STARTS = ("svd", "lora")
ALLOCATIONS = ("none", "spectrum")


def frozen_columns(step: int, rank: int, eta: float, total_steps: int) -> int:
    """f(i): how many leading columns of B are frozen at optimizer step `step`, section 3 of the paper."""
    # The product may be an ulp beside a whole number: 0.07 * 100 is above 7.
    return min(rank, math.floor(round(rank * step / (eta * total_steps), 9)))


def candidate_ranks(rank: int) -> tuple[int, int, int]:
    """Half the rank, the rank and one and a half times the rank, rounded so that their mean is the rank."""
    return rank // 2, rank, 2 * rank - rank // 2


def allocated_ranks(energies: Sequence[float], candidates: Sequence[int]) -> list[int]:
    """LaMDA++'s rank of every layer, given its normalised energy: the more energy, the smaller the rank.

    `candidates` ascend. Bins are equal; layers that are left over go where they leave the mean rank as it is, and equal
    energies keep their order.
    """
    order = sorted(range(len(energies)), key=lambda layer: -energies[layer])
    ranks = [0] * len(energies)
    for position, layer in enumerate(order):
        ranks[layer] = candidates[int(len(candidates) * (position + 0.5) / len(energies))]
    return ranks


class Lamda(LinearMethod):
    """Training of a square matrix between a frozen factor and one that is frozen column by column.

    `eta` is the share of the run in which B trains; `alpha` is None for the layer's rank. With `rank_allocation`
    "spectrum" the method is LaMDA++ and `rank` the mean over the layers.
    """

    family = "low-rank"
    paper = "Azizi et al. 2024, arXiv:2406.12832"
    reconstruction = True
    uses_every_parameter = False

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        alpha: float | None,
        dropout: float,
        targets: Sequence[str],
        init: str,
        eta: float,
        rank_allocation: str,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.init = init
        self.eta = eta
        self.rank_allocation = rank_allocation
        self._ranks: dict[str, int] = {}
        self._decompositions: dict[str, SVD] = {}
        self._b_trains = True

    def check_settings(self) -> None:
        """The choices must be known, the numbers in their ranges."""
        require_known("method.init", self.init, STARTS)
        require_known("method.rank_allocation", self.rank_allocation, ALLOCATIONS)
        require_number("method.eta", self.eta, SHARE)
        if self.alpha is not None:
            require_number("method.alpha", self.alpha, POSITIVE)
        require_number("method.dropout", self.dropout, PROBABILITY)
        if self.rank_allocation == "spectrum" and self.rank == 1:
            raise SettingsError("method.rank=1 has no half; method.rank_allocation=spectrum needs at least 2.")

    def check_part(self, part: Part) -> None:
        """The largest rank must fit the target."""
        check_rank(self.rank, part)
        largest, size = candidate_ranks(self.rank)[-1], min(part.module.get_parameter("weight").shape)
        if self.rank_allocation == "spectrum" and largest > size:
            raise SettingsError(
                f"method.rank={self.rank} lets some layers have rank {largest}, above the size of {part.name} ({size})."
            )

    def plan_steps(self, total_steps: int) -> None:
        """The freezing of B follows from the run's length."""
        self.total_steps = total_steps

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Put a layer with its three matrices in the place of every target."""
        from methods.parts.decomposed_linear import HeldColumns

        super().insert(backbone, total_steps)
        self._decompositions.clear()
        self._held = HeldColumns([layer.B for layer in self.layers.values()])

    def share(self, parts: Sequence[Part]) -> None:
        """Allot the ranks."""
        names = [part.name for part in parts]
        if self.rank_allocation == "none":
            self._ranks = dict.fromkeys(names, self.rank)
            return
        import torch

        from methods.parts.decompositions import normalised_energy, thin_svd
        from methods.parts.linear import weight_of

        smallest, _, largest = candidates = candidate_ranks(self.rank)
        spectra = [thin_svd(weight_of(part.module)).truncated(largest) for part in parts]
        self._decompositions = dict(zip(names, spectra, strict=True))
        energies = torch.stack([normalised_energy(svd.sigma, smallest, largest) for svd in spectra])
        # A model without weights has no spectra: its ranks ascend with depth, so that it can be counted all the same.
        values = [0.0] * len(names) if energies.is_meta else energies.tolist()
        self._ranks = dict(zip(names, allocated_ranks(values, candidates), strict=True))

    def adapted(self, part: Part) -> CoreLinear:
        """The target with its three matrices, A a buffer."""
        from methods.parts.decomposed_linear import CoreLinear, random_start
        from methods.parts.decompositions import svd_start, thin_svd
        from methods.parts.linear import weight_of

        rank = self._ranks[part.name]
        scaling = 1.0 if self.alpha is None else self.alpha / rank
        if self.init == "lora":
            return CoreLinear(part.module, random_start(part.module, rank), scaling, self.dropout, frozen=("A",))
        svd = self._decompositions.pop(part.name, None) or thin_svd(weight_of(part.module))
        layer = CoreLinear(part.module, svd_start(svd, rank, scaling), scaling, self.dropout, frozen=("A",))
        layer.subtract_start()
        return layer

    def after_backward(self, step: int) -> None:
        """Freeze as many columns of every B as the schedule says; all of them for good at its end."""
        if not self._b_trains:
            return
        counts = self._frozen_columns(step)
        if counts == list(self._ranks.values()):
            self._retire()
        else:
            self._held.hold(counts)

    def after_step(self, step: int) -> None:
        """Put the frozen columns back."""
        if self._b_trains:
            self._held.restore()

    def _frozen_columns(self, step: int) -> list[int]:
        return [frozen_columns(step, rank, self.eta, self.total_steps) for rank in self._ranks.values()]

    def _retire(self) -> None:
        """No B trains any more: out of the optimizer with all of them."""
        retired = {id(layer.B) for layer in self.layers.values()}
        for group in self.optimizer.param_groups:
            group["params"] = [tensor for tensor in group["params"] if id(tensor) not in retired]
        for layer in self.layers.values():
            self.optimizer.state.pop(layer.B, None)
            layer.B.requires_grad_(False)
            layer.B.grad = None
        self._b_trains = False

    def report(self) -> dict[str, Any]:
        """Trainable parameters at the start, at the end and on average over the run's steps, and every layer's rank."""
        core = sum(layer.C.numel() for layer in self.layers.values())
        counts = [core + self._trained_in_b(step) for step in range(self.total_steps)]
        return {
            "trainable_parameters_at_start": counts[0],
            "trainable_parameters_at_end": counts[-1],
            "mean_trainable_parameters": sum(counts) / len(counts),
            "rank": dict(self._ranks),
        }

    def _trained_in_b(self, step: int) -> int:
        """Parameters of all B that train at optimizer step `step`."""
        widths = (layer.out_features for layer in self.layers.values())
        free = zip(widths, self._ranks.values(), self._frozen_columns(step), strict=True)
        return sum(width * (rank - frozen) for width, rank, frozen in free)

    def stored_tensors(self) -> dict[str, Tensor]:
        """What trained, the head, and every A."""
        return super().stored_tensors() | {f"{name}.A": layer.A for name, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Whether B still trains: the frozen columns follow from the step."""
        return {"b_trains": self._b_trains}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take B out of the optimizer where it had left it."""
        if not state["b_trains"]:
            self._retire()
