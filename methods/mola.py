"""MoLA: a mixture of LoRA experts per layer, more of them in higher layers (Gao et al. 2024, arXiv:2402.08562).

Every target of layer l has E_l experts of rank r and a router U of its own. Each token x goes to K = `top_k` of them:

    p = softmax(U x),    w_j = p_j / (sum of the K largest p) for those K experts,
    y = W0 x + b + sum over those j of w_j s B_j A_j drop_j(x),    s = alpha / r,

with an own dropout mask per expert. B starts at 0, so the model starts at its base; the routers learn as soon as some
B has left it. The mixture cannot be merged: the inference form is the trained form.

`experts` says how E_l grows with depth: "2468" gives four groups of layers 2, 4, 6 and 8 experts; "8642", "8228" and
"5555" are the paper's other shapes, and a list of numbers makes as many groups as it has entries. Groups are of equal
size, but the last take the remainder. Where a layer has fewer experts than `top_k`, all of them are used.

With `balance_weight` > 0 (the authors' flag takes 0.001; off in their commands and here) the loss gains that times the
sum over layers of E_l sum_j f_j P_j: P_j the mean probability of expert j over all tokens of the layer's adapted
modules, f_j its share of their selections.

The authors (GCYZSL/MoLA) adapt LLaMA-2 and fail where `top_k` exceeds E_l. An expert that no token selects has a
gradient of zero, so AdamW moves it by its momentum and decays it; in their environment, whose PyTorch clears gradients
to zeros, the same is true of every expert once it was selected (`methods/parts/expert_linear.py`). Their balance loss
only works if router logits are asked for elsewhere; it is no mean over examples, so parts of a batch balance each by
itself, as do the processes of a run. Adapter tensors are float32 throughout. Training in two stages, on instructions
and then on the task, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from bench.requirements import NOT_NEGATIVE, PROBABILITY, require_number, require_whole
from methods.parts.linear_method import LinearMethod, check_rank

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backbone.anatomy import Part
    from bench.backbone.pretrained import Backbone
    from methods.parts.expert_linear import ExpertLinear


def allocation(experts: Sequence[int], blocks: int) -> list[int]:
    """The number of experts of each of `blocks` layers, from the bottom; `experts` has one number per group.

    Groups are of equal size but that the last ones take one of the remainder each; with fewer blocks than groups the
    first groups stay empty.
    """
    size, remainder = divmod(blocks, len(experts))
    larger = len(experts) - remainder
    return [count for group, count in enumerate(experts) for _ in range(size + (group >= larger))]


class Mola(LinearMethod):
    """Mixtures of LoRA experts; `experts` is their number by depth as a string of digits or a list, see the module."""

    family = "low-rank"
    paper = "Gao et al. 2024, arXiv:2402.08562"
    mergeable = False

    def __init__(
        self,
        learning_rate: float,
        rank: int,
        alpha: float,
        dropout: float,
        targets: Sequence[str],
        experts: str | int | Sequence[int],
        top_k: int,
        balance_weight: float,
    ) -> None:
        super().__init__(learning_rate, targets)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        given: Sequence[Any] = str(experts) if isinstance(experts, (str, int)) else experts
        self.experts = [int(count) if str(count).isdigit() else count for count in given]
        self.top_k = top_k
        self.balance_weight = balance_weight

    def check_settings(self) -> None:
        """Experts and places must be whole numbers from 1, the dropout a probability, the balance's weight from 0."""
        for count in self.experts or [0]:
            if not (isinstance(count, int) and count >= 1):
                raise SettingsError(
                    f"method.experts: {count} must be a whole number of at least 1; "
                    'give one digit per group of layers, such as "2468", or a list.'
                )
        require_whole("method.top_k", self.top_k)
        require_number("method.dropout", self.dropout, PROBABILITY)
        require_number("method.balance_weight", self.balance_weight, NOT_NEGATIVE)

    def check_part(self, part: Part) -> None:
        """The rank must fit the target, and the target must have a depth."""
        check_rank(self.rank, part)
        if part.block < 0:
            raise SettingsError(f"method.targets: {part.name} lies in no layer, which decides its number of experts.")

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Put an ExpertLinear in the place of every target; an encoder's layers count before its decoder's."""
        self.allocation = allocation(self.experts, len(backbone.anatomy.blocks))
        self._by_block: dict[int, list[ExpertLinear]] = {}
        super().insert(backbone, total_steps)

    def adapted(self, part: Part) -> ExpertLinear:
        """The target with the experts of its layer."""
        from methods.parts.expert_linear import ExpertLinear

        count, keeps = self.allocation[part.block], self.balance_weight > 0
        layer = ExpertLinear(part.module, count, self.top_k, self.rank, self.alpha, self.dropout, keeps)
        self._by_block.setdefault(part.block, []).append(layer)
        return layer

    def penalty(self) -> Tensor | None:
        """`balance_weight` times the summed balance of the layers; None where it is off."""
        from methods.parts.expert_linear import summed_balance

        if self.balance_weight == 0:
            return None
        return self.balance_weight * summed_balance(list(self._by_block.values()))

    def report(self) -> dict[str, Any]:
        """The number of experts per layer, from the bottom."""
        return {"experts": self.allocation}

    def finish(self) -> None:
        """The inference form is the trained form: every token has its own change of the weight."""
