"""S2-LoRA: Sparsely Shared LoRA on Whisper for Child Speech Recognition (Liu et al. 2024, arXiv:2309.11756).

Low-rank factors that all layers share, and sparse coefficients of each layer that choose among their components.
There is one A_n (rank, n) for every input width n among the targets and one B_m (m, rank) for every output width m;
layer k has a vector e_k (rank,) of its own and computes y = W0 x + b + s B_m (e_k * (A_n x)), s = alpha / rank
(`methods/parts/gated_linear.py`, where e_k is the gate). A and B start normal with deviation 0.02, e at 0. The loss
gains `orthogonality_weight` times the mean of ||A A^T - I||_F and ||B^T B - I||_F over the shared tensors, which keeps
the size of a component in its coefficient, and, to make e sparse,

- `sparsity=prox`: after every optimizer step e <- sign(e) max(|e| - lr tau, 0), lr being its learning rate. Adam moves
  a coefficient by about lr, so tau is the share of a step that is taken back, and what has no lasting direction is 0;
- `sparsity=l1` instead: the loss also gains `lambda_1` times the mean of |e| over all layers, and `finish` zeroes every
  |e| below `epsilon` times the largest of the model. Under Adam, which moves what is near 0 to and fro, nearly all
  coefficients stay.

Reconstruction: no code was published, and the abstract, all that was at hand of the paper, says no more than that the
two factors are shared by all layers, that each layer keeps its coefficients, that these are sparse, and that the
change merges. Ours are: factors by width, which for square targets come to the paper's single pair; start, scale,
orthogonality (AdaLoRA's) and both ways to sparsity; all settings; and the targets, which are the six projections of a
block. The paper adapts Whisper, which the benchmark has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.requirements import NOT_NEGATIVE, POSITIVE, PROBABILITY, require_known, require_number
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Part
    from methods.parts.gated_linear import GatedLinear

SPARSITIES = ("prox", "l1")


class S2Lora(LinearMethod):
    """Low-rank factors shared by all layers of one width, with sparse coefficients per layer.

    `rank`, `alpha`, `dropout` and `targets` are those of LoRA. `sparsity` is prox (with `tau`) or l1 (with `lambda_1`
    and `epsilon`), see above; `coefficient_lr_ratio` is the coefficients' learning rate over that of the run.
    """

    family = "shared or random bases"
    paper = "Liu et al. 2024, arXiv:2309.11756"
    reconstruction = True

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        alpha: float,
        dropout: float,
        targets: Sequence[str],
        sparsity: str,
        lambda_1: float,
        epsilon: float,
        tau: float,
        orthogonality_weight: float,
        coefficient_lr_ratio: float,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.sparsity = sparsity
        self.lambda_1 = lambda_1
        self.epsilon = epsilon
        self.tau = tau
        self.orthogonality_weight = orthogonality_weight
        self.coefficient_lr_ratio = coefficient_lr_ratio
        self.A: dict[int, nn.Parameter] = {}
        """The shared A by input width, (rank, width)."""
        self.B: dict[int, nn.Parameter] = {}
        """The shared B by output width, (width, rank)."""

    def check_settings(self) -> None:
        """Weights must be at least 0, the cut below all, the sparsity known."""
        require_known("method.sparsity", self.sparsity, SPARSITIES)
        for name in ("lambda_1", "tau", "orthogonality_weight"):
            require_number(f"method.{name}", getattr(self, name), NOT_NEGATIVE)
        require_number("method.epsilon", self.epsilon, PROBABILITY)
        require_number("method.coefficient_lr_ratio", self.coefficient_lr_ratio, POSITIVE)

    def check_part(self, part: Part) -> None:
        """The rank must fit the target."""
        check_rank(self.rank, part)

    def share(self, parts: Sequence[Part]) -> None:
        """Draw one A for every input width and one B for every output width."""
        from methods.parts.adapted_linear import normal
        from methods.parts.linear import in_out_features

        device = parts[0].module.get_parameter("weight").device
        for part in parts:
            width_in, width_out = in_out_features(part.module)
            if width_in not in self.A:
                self.A[width_in] = normal(self.rank, width_in, device=device)
            if width_out not in self.B:
                self.B[width_out] = normal(width_out, self.rank, device=device)

    def adapted(self, part: Part) -> GatedLinear:
        """The target with the shared factors of its widths and its own coefficients."""
        from methods.parts.adapted_linear import zeros
        from methods.parts.gated_linear import GatedLinear
        from methods.parts.linear import in_out_features

        width_in, width_out = in_out_features(part.module)
        down, up = self.A[width_in], self.B[width_out]
        e = zeros(self.rank, device=down.device)
        return GatedLinear(part.module, down, up, e, self.alpha / self.rank, self.dropout)

    @property
    def coefficients(self) -> list[nn.Parameter]:
        """e of all layers, (rank,) each."""
        return [layer.g for layer in self.layers.values()]

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """The coefficients apart, in the last group, without decay."""
        from methods.parts.optimizer_groups import with_own_group

        groups = super().parameter_groups(learning_rate, weight_decay)
        rate = self.coefficient_lr_ratio * learning_rate
        return with_own_group(groups, self.coefficients, lr=rate, weight_decay=0.0)

    def penalty(self) -> Tensor | None:
        """The orthogonality of the shared factors and, with `sparsity=l1`, the size of the coefficients."""
        import torch

        from methods.parts.proximal import mean_magnitude

        terms = []
        if self.orthogonality_weight > 0:
            terms.append(self.orthogonality_weight * self._orthogonality())
        if self.sparsity == "l1" and self.lambda_1 > 0:
            terms.append(self.lambda_1 * mean_magnitude(self.coefficients))
        return torch.stack(terms).sum() if terms else None

    def _orthogonality(self) -> Tensor:
        """The mean of ||A A^T - I||_F and ||B^T B - I||_F over the shared tensors."""
        import torch

        from methods.parts.triplets import orthogonality, positions_by_width, stacks

        matrices = [*self.A.values(), *(up.mT for up in self.B.values())]
        # In half precision the difference to the identity would be noise.
        with torch.autocast(matrices[0].device.type, enabled=False):
            norms = [orthogonality(stack) for stack in stacks(matrices, positions_by_width(matrices))]
            return torch.cat(norms).mean()

    def after_step(self, step: int) -> None:
        """With `sparsity=prox`, the proximal step of the coefficients at this step's learning rate."""
        from methods.parts.proximal import apply_to_all, soft_threshold

        if self.sparsity == "prox":
            rate = self.optimizer.param_groups[-1]["lr"]
            apply_to_all(soft_threshold, self.coefficients, rate * self.tau)

    def kept(self) -> Tensor:
        """Which coefficients `finish` keeps: (layers, rank), of booleans."""
        import torch

        magnitudes = torch.stack([e.detach() for e in self.coefficients]).abs()
        cut = self.epsilon * magnitudes.max() if self.sparsity == "l1" else 0.0
        return (magnitudes > 0) & (magnitudes >= cut)

    def report(self) -> dict[str, Any]:
        """How many coefficients are kept in every layer, their share, and the parameters of the pruned adapter."""
        ranks = dict(zip(self.layers, self.kept().sum(dim=1).tolist(), strict=True))
        shared = sum(tensor.numel() for tensor in (*self.A.values(), *self.B.values()))
        left = sum(ranks.values())
        return {"density": left / (self.rank * len(ranks)), "ranks": ranks, "parameters_left": shared + left}

    def finish(self) -> None:
        """Zero the coefficients below the cut and merge the rest."""
        import torch

        coefficients: list[Tensor] = list(self.coefficients)
        with torch.no_grad():
            torch._foreach_mul_(coefficients, list(self.kept().unbind()))
        super().finish()
