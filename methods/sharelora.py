"""ShareLoRA: parameter-efficient and robust fine-tuning via shared low-rank adaptation.

Song, Zhao, Harris, Jyothi 2024, arXiv:2406.10785; the authors' code is Rain9876/ShareLoRA.

LoRA whose factors serve all layers of a projection. Layer l of a projection g computes

    y = W0 x + b + (alpha / r) B A dropout(x), A of shape (r, in), B of shape (out, r),

with A ~ U(-1, 1) / sqrt(in) and B = 0 at the start, so that the model starts as it was. What is tied over the layers of
g (all queries, all values, ...) is `share`: A leaves (A_g, B_l), B leaves (A_l, B_g), AB leaves (A_g, B_g), by which
every layer of g gets the same change. A tied tensor is one parameter: it receives the sum of its layers' gradients and
one update a step. Nothing else differs from LoRA, in training or at its end.

Unlike the authors' code, which names queries and values by hand, any projection can be a target; its layers have the
same shape and lie in the same stack, so an encoder's and a decoder's queries are tied apart. Factors stay in float32;
the authors' LLaMA script trains them in bfloat16. The paper's variant with one A for query, key and value together,
which the authors' code does not contain, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.requirements import require_known
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import nn

    from bench.backbone.anatomy import Part
    from methods.parts.adapted_linear import LowRankLinear

SHARED = ("A", "B", "AB")


class ShareLora(LinearMethod):
    """LoRA with the factors that `share` names tied over the layers of every projection; the rest is LoRA's."""

    family = "shared or random bases"
    paper = "Song et al. 2024, arXiv:2406.10785"

    def __init__(
        self, learning_rate: float, rank: int, alpha: float, dropout: float, targets: str | Sequence[str], share: str
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.shared = share
        self._tied: dict[str, dict[str, nn.Parameter]] = {}
        """By target: the factors that it has in common with its projection's other layers."""

    def check_settings(self) -> None:
        """There must be something to share."""
        require_known("method.share", self.shared, SHARED)

    def check_part(self, part: Part) -> None:
        """The rank must fit the target."""
        check_rank(self.rank, part)

    def share(self, parts: Sequence[Part]) -> None:
        """Make the tied factors of every projection."""
        from methods.parts.sharing import projections

        for group in projections(parts).values():
            tied = {name: self._factor(name, group[0]) for name in self.shared}
            self._tied.update({part.name: tied for part in group})

    def adapted(self, part: Part) -> LowRankLinear:
        """The target with its projection's factors and its own."""
        from methods.parts.adapted_linear import LowRankLinear

        layer = LowRankLinear(part.module, self.alpha / self.rank, self.dropout)
        tied = self._tied[part.name]
        layer.A = tied["A"] if "A" in tied else self._factor("A", part)
        layer.B = tied["B"] if "B" in tied else self._factor("B", part)
        return layer

    def _factor(self, name: str, part: Part) -> nn.Parameter:
        """A new A or B for a layer of `part`'s shape, on its device."""
        from methods.parts.adapted_linear import uniform, zeros
        from methods.parts.linear import in_out_features

        width_in, width_out = in_out_features(part.module)
        device = part.module.get_parameter("weight").device
        if name == "A":
            return uniform(self.rank, width_in, device)
        return zeros(width_out, self.rank, device=device)
