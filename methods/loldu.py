"""LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition (Shi et al. 2024, arXiv:2410.13618).

Every target weight is decomposed once, with partial pivoting, into triangular factors and the pivots between them
(`methods/parts/decompositions.py`), and only the pivots train:

    W0 = P L diag(d) U                                   L, U unit-triangular, P a permutation
    W_res = W0 - s P L_r diag(d_r) U_r                   the first r pivots, in the order of pivoting; s = alpha / r
    y = W_res x + s P L_r diag(z) U_r x + b              z trained, (r,)

With `initialisation=lu` z starts at d_r and the model at the base model. The other values are the ablations of the
authors' code. Of uniform, normal and constant it builds the residual from the new z, so the model starts at the base
model as well; of the others from d_r, so it starts elsewhere.

The layer computes W0 x + s P L_r diag(z - d_r) U_r x, which is the same, and keeps W0 (see `DiagonalLinear`). A saved
adapter holds z and, for every layer, a checksum of the order of its pivots: whoever loads it decomposes the base
weights anew, and is told if that order is another.

Deviations from the authors' code (SKDDJ/LoLDU): a rank above a layer's size counts as its size, since their default,
768, is the width of RoBERTa-base and ViT-B. `alpha=null` stands for the rank, s = 1; theirs is alpha = 1 over the rank
that was asked for, which at 768 needs steps 768 times as large (`method.alpha=1`, over the layer's own rank). The
pivots do not decay, where their notebook's AdamW decays them by 0.01. The factors are multiplied in turn instead of
being multiplied out to a weight in every pass, P is an index, and taking the method off would give W0 back; theirs
leaves W_res. Convolutions and embeddings, which their code can wrap, are no targets. Their targets and learning rates
are not published: query and value make the 18,432 parameters of RoBERTa-base that the paper's ratio implies.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.requirements import POSITIVE, require_known, require_number, require_whole
from methods.base import ADAPTER_FILE
from methods.parts.linear_method import LinearMethod

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbone.anatomy import Part
    from methods.parts.decomposed_linear import DiagonalLinear

FROM_BASE = ("lu", "uniform", "normal", "constant")
"""Initialisations with which the model starts at the base model."""
INITIALISATIONS = (*FROM_BASE, "ones", "zeros", "s_uniform", "s_normal")
DRAWN = ("uniform", "normal")
"""Those of them whose residual is built from random numbers."""
PIVOTING = "pivoting"


class LoLDU(LinearMethod):
    """Training of the pivots of an LDU decomposition of every target's weight.

    `rank` is how many of them train, at most the layer's smaller width, and all of them where it is above that or
    None; `alpha` is None for the rank; `initialisation` says where z starts, see `initial_diagonal`.
    """

    family = "spectral"
    paper = "Shi et al. 2024, arXiv:2410.13618"

    def __init__(
        self,
        learning_rate: float,
        rank: int | None,
        alpha: float | None,
        initialisation: str,
        targets: Sequence[str],
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.initialisation = initialisation
        self.identity_at_start = initialisation in FROM_BASE
        self._rows: list[Tensor] = []

    def check_settings(self) -> None:
        """The rank must be a whole number or null, the scale positive, the start known."""
        if self.rank is not None:
            require_whole("method.rank", self.rank)
        if self.alpha is not None:
            require_number("method.alpha", self.alpha, POSITIVE)
        require_known("method.initialisation", self.initialisation, INITIALISATIONS)

    def adapted(self, part: Part) -> DiagonalLinear:
        """The target with its pivots."""
        from methods.parts.decomposed_linear import DiagonalLinear
        from methods.parts.decompositions import initial_diagonal, ldu
        from methods.parts.linear import weight_of

        rows, lower, pivots, upper = ldu(weight_of(part.module))
        self._rows.append(rows)
        d = pivots[: self.rank].clone()
        scaling = 1.0 if self.alpha is None else self.alpha / len(d)
        initial = initial_diagonal(d, self.initialisation)
        start = initial.clone() if self.identity_at_start else d
        left, right = lower[rows][:, : len(d)], upper[: len(d)]
        return DiagonalLinear(part.module, left.contiguous(), start, right.contiguous(), initial, scaling)

    def stored_tensors(self) -> dict[str, Tensor]:
        """The pivots, where they started if that was drawn, the head and one checksum per layer."""
        drawn = self.layers if self.initialisation in DRAWN else {}
        starts = {f"{name}.start": layer.start for name, layer in drawn.items()}
        return super().stored_tensors() | starts | {PIVOTING: self._pivoting()}

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises ValueError where the base weights decompose otherwise than they did then."""
        from safetensors.torch import load_file

        stored = load_file(folder / ADAPTER_FILE).get(PIVOTING)
        if stored is not None and not stored.equal(self._pivoting()):
            raise ValueError(
                f"{folder / ADAPTER_FILE} belongs to other base weights, or this machine chooses other pivots for them"
            )
        super().load(folder)

    def _pivoting(self) -> Tensor:
        """A checksum of the order in which pivoting took the rows, for every layer: (layers,), int64."""
        import torch

        return torch.tensor([zlib.crc32(rows.numpy(force=True).tobytes()) for rows in self._rows])
