"""TLoRA: a compact transform of the weight's input side and a compact residual (Tao et al. 2025, arXiv:2501.08727).

Every target layer computes y = (W0 T + s D) x + b with s = alpha / sqrt(rank), or alpha / rank without `use_rslora`.

The transform T, (in, in), is a tensor-ring matrix over three factors I_1 I_2 I_3 of the input width,

    T[(i_1, i_2, i_3), (j_1, j_2, j_3)] = trace(A_1[i_1, j_1] A_2[i_2, j_2] A_3[i_3, j_3]),

whose cores A_d of (I_d, I_d, R, R) start at I / R in every slice, so T starts as the identity. R is `transform_rank`:
0 leaves T out, 1 makes it a Kronecker product. It is applied to the input, never built while the method trains.

The `residual` D, (out, in), starts at 0:

- lora: D = B A of rank `rank`;
- tr: D[(j), (i)] = trace(C_1[j_1] C_2[j_2] C_3[j_3] E_1[i_1] E_2[i_2] E_3[i_3]), cores of (J_d or I_d, rank, rank);
- ttm: a tensor-ring matrix with cores of (J_d, I_d, rank, rank).

The loss may gain `regularisation_weight` times a distance of the cores from the identity (R_I) or of T T^T from it
(R_O), see `methods/parts/tensor_ring.py`. Nothing else happens in training; W0 T + s D merges.

The authors (marcocst/PEFTDiff) adapt text-to-image models alone; learning rate, rank 4 and targets are this
benchmark's. Widths that their table of shapes lacks are split into the three factors with the least sum; a prime width
has but one factor, so T is dense there. Their code builds T and the new weight in every pass; its ttm residual crashes
on a missing name, and the formula is followed. Their code has no regulariser; the paper's is reconstructed core by
core and off by default. Their optimizer decays all cores; here T's do not decay, since decay pulls T to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.requirements import NOT_NEGATIVE, require_known, require_number, require_whole
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Part
    from methods.parts.tensor_ring import TransformedLinear

RESIDUALS = ("lora", "tr", "ttm")
REGULARISERS = ("identity", "orthogonal")
AUTHORS_SHAPES = {320: (4, 8, 10)}
"""Where the authors' table does not take the most equal factors; it does for 640, 768, 1280 and 2048."""


def tensor_shape(width: int) -> tuple[int, int, int]:
    """Three ascending factors of `width`: the authors' where they differ, else those with the least sum."""
    if width in AUTHORS_SHAPES:
        return AUTHORS_SHAPES[width]
    divisors = [number for number in range(1, width + 1) if width % number == 0]
    pairs = [(a, b) for a in divisors for b in divisors if a <= b and a * b * b <= width and width % (a * b) == 0]
    return min(((a, b, width // (a * b)) for a, b in pairs), key=sum)


class TLora(LinearMethod):
    """A tensor-ring transform of the input and a small residual; for the settings see the module."""

    family = "low-rank"
    paper = "Tao et al. 2025, arXiv:2501.08727"

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        transform_rank: int,
        residual: str,
        use_rslora: bool,
        regulariser: str,
        regularisation_weight: float,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.transform_rank = transform_rank
        self.residual = residual
        self.use_rslora = use_rslora
        self.regulariser = regulariser
        self.regularisation_weight = regularisation_weight

    def check_settings(self) -> None:
        """Names must be known, the transform's rank a whole number, the weight no less than 0."""
        require_known("method.residual", self.residual, RESIDUALS)
        require_known("method.regulariser", self.regulariser, REGULARISERS)
        require_whole("method.transform_rank", self.transform_rank, least=0)
        require_number("method.regularisation_weight", self.regularisation_weight, NOT_NEGATIVE)

    def check_part(self, part: Part) -> None:
        """The residual's rank must fit the target."""
        check_rank(self.rank, part)

    def adapted(self, part: Part) -> TransformedLinear:
        """The target with its transform and its residual."""
        from methods.parts.linear import in_out_features
        from methods.parts.tensor_ring import TransformedLinear

        shape_in, shape_out = (tensor_shape(width) for width in in_out_features(part.module))
        scaling = self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)
        return TransformedLinear(
            part.module, shape_in, shape_out, self.transform_rank, self.residual, self.rank, scaling
        )

    @property
    def transform_cores(self) -> list[nn.Parameter]:
        """The cores of all transforms."""
        transforms = [layer.transform for layer in self.layers.values() if layer.transform is not None]
        return [core for transform in transforms for core in transform.cores]

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """As ever, but for the transforms' cores, which decay would pull to 0 and not to the identity."""
        from methods.parts.optimizer_groups import with_own_group

        groups = super().parameter_groups(learning_rate, weight_decay)
        return with_own_group(groups, self.transform_cores, lr=learning_rate, weight_decay=0.0)

    def penalty(self) -> Tensor | None:
        """`regularisation_weight` times R_I or R_O of all transforms; None where there is none."""
        from methods.parts.tensor_ring import identity_distance, orthogonality_distance, stacked

        cores = self.transform_cores
        if not (cores and self.regularisation_weight):
            return None
        distance = {"identity": identity_distance, "orthogonal": orthogonality_distance}[self.regulariser]
        first, *rest = [distance(stack) for stack in stacked(cores)]
        return self.regularisation_weight * sum(rest, start=first)
