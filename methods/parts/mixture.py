"""Layers of which one of several experts serves, chosen by lot while training (AdaMix)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.parts.bottleneck import linear_of


class Mixture(nn.Module):
    """One of several dense layers of one shape while training; the layer of their mean weights afterwards.

    `routes` says which expert serves each equal part of the batch. An expert that no part is sent to gets no gradient.
    The routes stay until the next pass, so that a backward pass that computes activations again takes the same.
    """

    def __init__(self, experts: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.routes: tuple[int, ...] = ()

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, ..., in) to (batch, ..., out)."""
        if not self.training or not self.routes:
            return functional.linear(hidden, *self.average())
        if len(set(self.routes)) == 1:
            return self._served_by(self.routes[0], hidden)
        parts = hidden.tensor_split(len(self.routes))
        return torch.cat([self._served_by(route, part) for route, part in zip(self.routes, parts, strict=True)])

    def average(self) -> tuple[Tensor, Tensor]:
        """The experts' mean weight, (out, in), and mean bias, (out,)."""
        return self._mean("weight"), self._mean("bias")

    def finished(self) -> nn.Linear:
        """The layer of the mean weights."""
        return linear_of(*self.average())

    def _mean(self, name: str) -> Tensor:
        tensors: list[Tensor] = [expert.get_parameter(name) for expert in self.experts]
        return torch.stack(tensors).mean(0)

    def _served_by(self, route: int, hidden: Tensor) -> Tensor:
        output: Tensor = self.experts[route](hidden)
        return output


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """(KL(q || p) + KL(p || q)) / 2, the mean over rows, for logits (rows, classes) of p and q, in float32.

    Each divergence pulls one pass towards the other, whose distribution is detached: `symmetric_KL_loss` of
    microsoft/AdaMix.
    """
    log_p, log_q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    return (_divergence(log_q.detach(), log_p) + _divergence(log_p.detach(), log_q)) / 2


def _divergence(log_target: Tensor, log_found: Tensor) -> Tensor:
    """KL(target || found), the mean over rows."""
    return functional.kl_div(log_found, log_target, reduction="batchmean", log_target=True)
