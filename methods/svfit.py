"""SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values.

Sun et al. 2024, arXiv:2409.05926.

Every target weight is decomposed once, and only its r largest singular values train; they may change their sign:

    W0 = U diag(sigma) V^T
    W_e = W0 - U_r diag(sigma_r) V_r^T
    y = W_e x + U_r diag(s) V_r^T x + b                  s trained, (r,), from sigma_r on

The layer computes W0 x + U_r diag(s - sigma_r) V_r^T x, which is the same, and keeps W0 (see `DiagonalLinear`, where s
is called z). A saved adapter holds s alone: whoever loads it decomposes the base weights anew, and the signs of
singular vectors, which are free, fall out of the product.

No code by the authors is known; this is built from the paper's description. Reconstructed: the targets and the default
rank, from the claim of 16 times fewer parameters than LoRA; squares in the share of `energy`; no scale, no dropout and
no weight decay on s, which would pull the weights towards 0 instead of towards the base model. A rank above a layer's
size counts as its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.requirements import SHARE, require_number, require_whole
from methods.parts.linear_method import LinearMethod

if TYPE_CHECKING:
    from bench.backbone.anatomy import Part
    from methods.parts.decomposed_linear import DiagonalLinear


class SVFit(LinearMethod):
    """Training of the leading singular values of every target's weight.

    `rank` is how many of them train, at most the layer's smaller width, and all of them where it is above that or
    None. With `energy` a layer trains as few as hold that share of the sum of squares, and at most `rank`.
    """

    family = "spectral"
    paper = "Sun et al. 2024, arXiv:2409.05926"
    reconstruction = True

    def __init__(
        self, learning_rate: float, rank: int | None, targets: Sequence[str], energy: float | None = None
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.energy = energy

    def check_settings(self) -> None:
        """The rank must be a whole number or null, the energy a share."""
        if self.rank is not None:
            require_whole("method.rank", self.rank)
        if self.energy is not None:
            require_number("method.energy", self.energy, SHARE)

    def adapted(self, part: Part) -> DiagonalLinear:
        """The target with its singular values."""
        from methods.parts.decomposed_linear import DiagonalLinear
        from methods.parts.decompositions import rank_of_energy, thin_svd
        from methods.parts.linear import weight_of

        svd = thin_svd(weight_of(part.module))
        ranks = [len(svd.sigma), self.rank, None if self.energy is None else rank_of_energy(svd.sigma, self.energy)]
        U, sigma, Vt = svd.truncated(min(rank for rank in ranks if rank is not None))
        return DiagonalLinear(part.module, U, sigma, Vt, sigma.clone())

    def report(self) -> dict[str, Any]:
        """How many singular values of each layer trained."""
        return {"rank": {name: len(layer.z) for name, layer in self.layers.items()}}
