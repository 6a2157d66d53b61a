"""GOFT and qGOFT: the input of every layer turned by a tournament of rotations (Ma et al. 2024, arXiv:2404.04316).

A target layer of d inputs computes y = (x R) W^T + b, so that W becomes W R^T, with

    R = P_K ... P_2 P_1,    K = ceil(log2 d),

where P_t turns disjoint pairs of features and is the identity elsewhere; level t couples the features that are a
multiple of 2^(t-1), so that there are d - 1 pairs in all (`methods/parts/givens.py`). With one 2 x 2 block per pair,

- goft: [[cos a, -sin a], [sin a, cos a]], a = pi tanh(p), p from 0: R is a rotation;
- goft_star: the same and R = P_K ... P_1 diag(g), g from 1, which changes the norms of W's columns;
- qgoft: a free block G, from the identity, and the loss gains lambda times the sum over all pairs of all layers of
  (g11 g12 + g21 g22)^2, which is 0 where the columns of G are orthogonal. Their norms are free.

The model starts at its base and the change can be merged. Neither p, g nor G decays: g and G would be pulled to 0 and
away from the identity, and vectors, as p is one, never decay here.

Order of the levels, parametrisation and scale are those of the authors' code (ArthurLeoM/peft-givens) at the version
of the paper; its later one pairs neighbours on every level and merges in another order than it computes. That code
has no penalty, which is the paper's, and builds R as a product of sparse matrices; here the same R acts as two small
products per input. Weight decay is left out for G.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from bench.requirements import NOT_NEGATIVE, require_known, require_number
from methods.parts.linear_method import LinearMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Part
    from methods.parts.givens import GivensLinear

VARIANTS = ("goft", "goft_star", "qgoft")


class QuasiGivens(LinearMethod):
    """Turned input: by rotations (`variant` goft), by rotations and scales (goft_star), or nearly so (qgoft).

    `orthogonality_weight` is lambda, which only qgoft has.
    """

    family = "orthogonal"
    paper = "Ma et al. 2024, arXiv:2404.04316"

    def __init__(
        self, learning_rate: float, targets: Sequence[str], variant: str, orthogonality_weight: float = 0.0
    ) -> None:
        super().__init__(learning_rate, targets)
        self.variant = variant
        self.orthogonality_weight = orthogonality_weight

    def check_settings(self) -> None:
        """The variant must be known; the penalty is qgoft's."""
        require_known("method.variant", self.variant, VARIANTS)
        require_number("method.orthogonality_weight", self.orthogonality_weight, NOT_NEGATIVE)
        if self.orthogonality_weight > 0 and self.variant != "qgoft":
            raise SettingsError(
                f"method.orthogonality_weight={self.orthogonality_weight} is for method.variant=qgoft; "
                f"the blocks of {self.variant} are orthogonal in any case."
            )

    def adapted(self, part: Part) -> GivensLinear:
        """The target on turned input."""
        from methods.parts.givens import GivensLinear, QuasiGivensLinear

        if self.variant == "qgoft":
            return QuasiGivensLinear(part.module)
        return GivensLinear(part.module, scaled=self.variant == "goft_star")

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """The head as ever; the blocks without decay."""
        from methods.parts.optimizer_groups import with_own_group

        groups = super().parameter_groups(learning_rate, weight_decay)
        blocks = [layer.own for layer in self.layers.values()]
        return with_own_group(groups, blocks, lr=learning_rate, weight_decay=0.0)

    def compute_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss, with the rotations of all layers computed together."""
        from methods.parts.givens import turned_together

        with turned_together(list(self.layers.values())):
            return super().compute_loss(model, batch)

    def penalty(self) -> Tensor | None:
        """lambda times the sum over all pairs of all layers; None where it is 0."""
        from methods.parts.givens import by_width, non_orthogonality, stacked_blocks

        if self.orthogonality_weight == 0:
            return None
        sums = [non_orthogonality(stacked_blocks(group)) for group in by_width(self.layers.values())]
        return self.orthogonality_weight * sum(sums[1:], start=sums[0])
