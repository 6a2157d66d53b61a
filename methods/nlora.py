"""NLoRA: Nyström-Initiated Low-Rank Adaptation for Large Language Models (Guo et al. 2025, arXiv:2502.14482).

A square matrix N stands between LoRA's factors: y = W0 x + b + s B N A x with A (r, in), N (r, r), B (out, r) and
s = alpha / r. Three methods, of one class:

| method  | A         | N          | B         | trains  |
| ------- | --------- | ---------- | --------- | ------- |
| slora   | uniform   | uniform    | 0         | A, N, B |
| nlora   | W0[:r, :] | W0[:r, :r] | W0[:, :r] | A, N, B |
| inttune | W0[:r, :] | W0[:r, :r] | W0[:, :r] | N       |

The uniform ones are LoRA's U(-1, 1) / sqrt(fan in). The slices are copies: W0 stays as it is, so nlora and inttune do
not start at the base model but at W0 + s W0[:, :r] W0[:r, :r] W0[:r, :], as in the authors' code. Two options depart
from it: `nystrom_inverse` starts N at the pseudo-inverse of W0[:r, :r], which makes B N A the Nyström approximation
that the name promises, and `subtract_init` leaves W0 - s B N A in the base layer, so that the model starts at the base
model. In `CoreLinear` N is called C.

Deviations from the authors' code (TracyGuo2001/NLoRA): ranks are those of models of this benchmark's size, 8 and, for
inttune, 32, instead of 64 to 256 for LLaMA-2-7B; alpha is the rank, as theirs is. Their targets are all linear layers
of LLaMA; here all six of an encoder block, which the paper does not fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.errors import SettingsError
from bench.requirements import POSITIVE, PROBABILITY, require_known, require_number
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from bench.backbone.anatomy import Part
    from methods.parts.decomposed_linear import CoreLinear

INITIALISATIONS = ("slora", "nlora")
TRAINED = {"all": (), "intermediate": ("A", "B")}
"""What stays frozen, by the setting `train`."""


class NLora(LinearMethod):
    """Low-rank updates with a square matrix between the factors, which start at random or as slices of the weight.

    `initialisation` is "slora" or "nlora", `train` "all" or "intermediate" (N alone); `alpha` is None for the rank.
    """

    family = "low-rank"
    paper = "Guo et al. 2025, arXiv:2502.14482"

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        alpha: float | None,
        dropout: float,
        targets: Sequence[str],
        initialisation: str,
        train: str,
        nystrom_inverse: bool = False,
        subtract_init: bool = False,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.initialisation = initialisation
        self.trained = train
        self.nystrom_inverse = nystrom_inverse
        self.subtract_init = subtract_init
        self.identity_at_start = subtract_init or initialisation == "slora"

    def check_settings(self) -> None:
        """The choices must be known and something must be left to learn."""
        require_known("method.initialisation", self.initialisation, INITIALISATIONS)
        require_known("method.train", self.trained, TRAINED)
        if self.initialisation == "slora" and self.trained != "all":
            raise SettingsError(
                "method.train=intermediate needs method.initialisation=nlora: slora's B is 0 and would stay 0."
            )
        if self.alpha is not None:
            require_number("method.alpha", self.alpha, POSITIVE)
        require_number("method.dropout", self.dropout, PROBABILITY)

    def check_part(self, part: Part) -> None:
        """The rank must fit the target."""
        check_rank(self.rank, part)

    def adapted(self, part: Part) -> CoreLinear:
        """The target with its three matrices."""
        from methods.parts.decomposed_linear import CoreLinear, random_start
        from methods.parts.decompositions import nystrom_start
        from methods.parts.linear import weight_of

        if self.initialisation == "slora":
            start = random_start(part.module, self.rank)
        else:
            start = nystrom_start(weight_of(part.module), self.rank, self.nystrom_inverse)
        scaling = 1.0 if self.alpha is None else self.alpha / self.rank
        layer = CoreLinear(part.module, start, scaling, self.dropout, frozen=TRAINED[self.trained])
        if self.subtract_init:
            layer.subtract_start()
        return layer
