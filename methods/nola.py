"""NOLA: compressing LoRA using linear combination of random basis.

Koohpayegani et al., ICLR 2024, arXiv:2310.02556; the authors' code is UCDvision/NOLA.

LoRA whose factors are combinations of random matrices, so that the number of parameters depends neither on the rank nor
on the width. Every target computes y = W0 x + b + (alpha / r) B A dropout(x) with

    A = A0 + sum_{i=1..k} a_i P_i, B = sum_{j=1..k} c_j Q_j, P_i (r, in) and Q_j (out, r) ~ U(-1, 1) / sqrt(k).

The coefficients a and c train, from 0; A0, LoRA's start of A, is frozen, and P and Q are what seeds bring back: one
seed each for A0, P and Q, drawn for every layer (`methods/parts/random_basis.py`). The model starts as it was; the
first gradient reaches c alone. By default the bases are drawn in every forward pass and again in the backward pass,
where dL/da_i = <dL/dA, P_i>; with `keep_bases` they are drawn once and stay in memory, k r (in + out) floats per layer.
At the end A and B are merged. A saved adapter holds coefficients and seeds.

`variant: lm` is the authors' language-model code, `variant: vit` their `NOLA2` for ViT: no A0, a = c = 1 / k at the
start (which is not the base model), bases in memory, the same in all layers of one shape, uniform within
1 / sqrt(r in) and 1 / sqrt(r out), and a scale of 1 / r, which is alpha = 1 here.

The paper's DeltaW is A B, so that its A is B here. The authors reseed torch's global stream in every pass and let it
go on from a fresh number; here the bases come from a generator of their own, so that no other random number depends on
them, and on the CPU a seed gives the authors' numbers. The factor 1 / sqrt(k) is applied to the sum instead of every
basis. A0 has a seed, where the authors save the tensor. Their released LLaMA code merges A0 alone, and their GPT-2 code
starts from a random B and has the same seeds in all layers; neither is followed. Coefficients and bases are float32
also where the run computes in bfloat16. A GPU's numbers differ from the CPU's and may differ between kinds of GPU, so
an adapter draws on the kind of device that drew in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.requirements import POSITIVE, require_known, require_number, require_whole
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbone.anatomy import Part
    from methods.parts.adapted_linear import LowRankLinear
    from methods.parts.random_basis import HeldBases

DEFAULT_ALPHA = {"lm": 8.0, "vit": 1.0}
"""By variant."""


class Nola(LinearMethod):
    """Factors that are combinations of `num_basis` random matrices each.

    `rank`, `alpha` (None: that of `variant`), `dropout` and `targets` are LoRA's; `keep_bases` spends memory on time
    and is what `variant: vit` always does.
    """

    family = "shared or random bases"
    paper = "Koohpayegani et al. 2024, arXiv:2310.02556"

    def __init__(
        self,
        learning_rate: float,
        num_basis: int,
        rank: int,
        alpha: float | None,
        dropout: float,
        targets: str | Sequence[str],
        variant: str,
        keep_bases: bool,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.num_basis = num_basis
        self.rank = rank
        self.alpha = DEFAULT_ALPHA.get(variant, 1.0) if alpha is None else alpha
        self.dropout = dropout
        self.variant = variant
        self.keep_bases = keep_bases
        self.identity_at_start = variant != "vit"
        self._held: dict[tuple[int, int], HeldBases] = {}
        """The bases of `variant: vit` by the shape of what they adapt."""

    def check_settings(self) -> None:
        """The variant must be known, and there must be bases."""
        require_known("method.variant", self.variant, DEFAULT_ALPHA)
        require_whole("method.num_basis", self.num_basis)
        require_number("method.alpha", self.alpha, POSITIVE)

    def check_part(self, part: Part) -> None:
        """The rank must fit the target."""
        check_rank(self.rank, part)

    def adapted(self, part: Part) -> LowRankLinear:
        """The target with its coefficients."""
        from methods.parts.linear import in_out_features
        from methods.parts.random_basis import HeldBasisLinear, SeededBasisLinear, vit_bases

        scaling = self.alpha / self.rank
        if self.variant == "lm":
            return SeededBasisLinear(part.module, self.num_basis, self.rank, scaling, self.dropout, self.keep_bases)
        shape = in_out_features(part.module)
        if shape not in self._held:
            self._held[shape] = vit_bases(self.num_basis, self.rank, *shape)
        return HeldBasisLinear(part.module, self._held[shape], scaling, self.dropout)

    def stored_tensors(self) -> dict[str, Tensor]:
        """Coefficients, head, and the seeds of `variant: lm`."""
        tensors = super().stored_tensors()
        if self.variant == "lm":
            tensors |= {f"{name}.origin": layer.origin for name, layer in self.layers.items()}
        return tensors

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; what the seeds bring back is drawn again."""
        super().load(folder)
        if self.variant == "lm":
            for layer in self.layers.values():
                layer.regenerate()
