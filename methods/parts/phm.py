"""Linear layers whose weight is a sum of Kronecker products (Zhang et al. 2021; Mahabadi et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RULE_STD = 1e-4
"""Standard deviation at which shared rules start (`phm_init_range` of rabeehk/compacter)."""


class PHMLinear(nn.Module):
    """y = x H + bias with H = sum_i C_i (x) (u_i v_i), (in, out); (x) is the Kronecker product.

    C, (n, n, n), is `rule`, which several layers may have in common; u_i v_i is made of `left`, (n, in / n, rank), and
    `right`, (n, rank, out / n), which belong to this layer: equations 2 and 4 of Mahabadi et al. 2021. Left and right
    start Xavier-uniform with gain sqrt(2), slice by slice, and the bias at 0.
    """

    def __init__(self, rule: nn.Parameter, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        n = len(rule)
        self.in_features, self.out_features = in_features, out_features
        self.rule = rule
        self.left = nn.Parameter(_xavier_slices(n, in_features // n, rank))
        self.right = nn.Parameter(_xavier_slices(n, rank, out_features // n))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return phm_product(hidden, self.rule.to(self.left.dtype), self.left, self.right) + self.bias


def phm_product(hidden: Tensor, rule: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """x H without H: x (..., in), C (n, n, n), left (n, in / n, rank), right (n, rank, out / n); result (..., out).

    Entry (a p, b o) of H is the sum over i and r of C_i[a, b] left_i[p, r] right_i[r, o]. C goes to whichever factor is
    on the narrow side of the layer, which then has n n rank rows or columns.
    """
    n, rows, rank = left.shape
    by_index = rule.transpose(0, 1)  # (a, i, b)
    if rows > right.shape[2]:
        inner = hidden.reshape(*hidden.shape[:-1], n, rows) @ left.transpose(0, 1).flatten(1)  # (..., a, i r)
        narrow = by_index[:, :, None, :, None] * right[:, :, None]  # (a, i, r, b, o)
        return inner.flatten(-2) @ narrow.flatten(3).flatten(0, 2)
    mixed = by_index.transpose(1, 2)[:, None, :, :, None] * left.transpose(0, 1)[:, None]  # (a, p, b, i, r)
    inner = hidden @ mixed.flatten(2).flatten(0, 1)  # (..., b i r)
    return (inner.view(*inner.shape[:-1], n, n * rank) @ right.flatten(0, 1)).flatten(-2)


def shared_rule(n: int, device: torch.device) -> nn.Parameter:
    """C, (n, n, n), at its start, drawn on the CPU."""
    return nn.Parameter((RULE_STD * torch.randn(n, n, n)).to(device))


def _xavier_slices(slices: int, rows: int, columns: int) -> Tensor:
    tensor = torch.empty(slices, rows, columns)
    for one in tensor:
        nn.init.xavier_uniform_(one, gain=2**0.5)
    return tensor
