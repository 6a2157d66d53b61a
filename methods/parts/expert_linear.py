"""Linear layers with a mixture of low-rank experts, to which every token is routed (MoLA, Gao et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.adapted_linear import AdaptedLinear, uniform, zeros


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Weights w and numbers of the experts of each token: logits (..., E) to two tensors of (..., top_k).

    p = softmax(h) in float32 over all experts, then the largest `top_k`, divided by their sum.
    """
    weights, experts = logits.softmax(dim=-1, dtype=torch.float32).topk(top_k, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True), experts


def gates(weights: Tensor, experts: Tensor, count: int) -> Tensor:
    """(..., top_k) weights and numbers to (..., top_k, count): the weight at the expert's place, 0 elsewhere."""
    return weights.unsqueeze(-1) * (experts.unsqueeze(-1) == torch.arange(count, device=experts.device))


def balance(logits: Tensor, top_k: int) -> Tensor:
    """E * sum_j f_j P_j of router logits (rows, E), which is 1 where the routing is uniform.

    P_j is the mean probability of expert j, f_j its share of all selections, which has no gradient.
    """
    probabilities = logits.softmax(dim=-1, dtype=torch.float32)
    _, experts = route(logits.detach(), top_k)
    shares = gates(torch.ones_like(experts, dtype=torch.float32), experts, logits.shape[-1]).sum(1).mean(0) / top_k
    return logits.shape[-1] * (shares * probabilities.mean(0)).sum()


def summed_balance(layers: Sequence[Sequence[ExpertLinear]]) -> Tensor:
    """The sum of `balance` over the model's layers, each given by its adapted modules, whose logits it takes."""
    first, *rest = [
        balance(torch.cat([module.taken_logits() for module in modules]), modules[0].top_k) for modules in layers
    ]
    return sum(rest, start=first)


class ExpertLinear(AdaptedLinear):
    """y = W0 x + b + sum over the selected experts j of w_j s B_j A_j drop_j(x), with s = alpha / rank.

    The router U is (E, in) and sees x without dropout. The experts are stacked: A, (E rank, in), has A_j in the rows
    from j rank on, B, (out, E rank), has B_j in the columns. U and A start as LoRA's A, B at 0. All experts are
    computed for all tokens as one product each way, and those not selected are weighted with 0: that costs E / top_k
    times the small products of the selected ones, but gathers no tokens and never waits for the device.

    With dropout every selected expert drops the token's features on its own, so the first product is made once for
    each of the `top_k` places. An expert that no token selects gets a gradient of zeros: Adam then still moves it by
    its momentum and decays it, where a gradient of None would leave it.
    """

    def __init__(
        self, base: nn.Module, experts: int, top_k: int, rank: int, alpha: float, dropout: float, keeps_logits: bool
    ) -> None:
        super().__init__(base)
        self.experts = experts
        self.top_k = min(top_k, experts)
        self.scaling = alpha / rank
        self.expert_dropout = nn.Dropout(dropout)
        self.U = uniform(experts, self.in_features, self.device)
        self.A = uniform(experts * rank, self.in_features, self.device)
        self.B = zeros(self.out_features, experts * rank, device=self.device)
        self.keeps_logits = keeps_logits
        self.logits: Tensor | None = None
        """Of the last forward pass, (tokens, E), until they are taken."""

    def update(self, hidden: Tensor) -> Tensor:
        """The mixture's output: (..., in) to (..., out)."""
        with torch.autocast(hidden.device.type, enabled=False):  # margins between experts are narrow
            logits = functional.linear(hidden.float(), self.U)
        if self.keeps_logits:
            self.logits = logits.flatten(0, -2)
        places = gates(*route(logits, self.top_k), self.experts).movedim(-2, 0) * self.scaling  # (top_k, ..., E)
        if self.training and self.expert_dropout.p > 0:
            inputs = self.expert_dropout(hidden.expand(self.top_k, *hidden.shape))
        else:
            inputs, places = hidden.unsqueeze(0), places.sum(0, keepdim=True)
        inner = functional.linear(inputs, self.A)
        inner = inner.view(*inner.shape[:-1], self.experts, -1)
        return functional.linear((inner * places.unsqueeze(-1)).sum(0).flatten(-2), self.B)

    def taken_logits(self) -> Tensor:
        """The logits of the last forward pass; they are not kept any longer."""
        logits, self.logits = self.logits, None
        assert logits is not None, "the layer was not called, or does not keep its logits"
        return logits

    def delta_weight(self) -> Tensor:
        """There is none: raises NotImplementedError."""
        raise NotImplementedError("a mixture of experts changes the weight by another matrix for every token")
