"""Compacter, Compacter++: adapters of hypercomplex low-rank layers (Mahabadi et al. 2021, NeurIPS, arXiv:2106.04647).

Adapters at Houlsby's places, h <- h + up(gelu_new(down(h))), whose two layers share most of what they are. A layer's
weight is a sum of n Kronecker products,

    y = x H + bias,   H = sum_i C_i (x) (u_i v_i),   C_i (n, n), u_i (in / n, k), v_i (k, out / n),

with one tensor C (n, n, n) for all layers of the model ("slow" weights, one gradient summed over all of them) and
u, v and the bias of the layer's own ("fast" weights): k (in + out) + out numbers. H is never built
(`methods/parts/phm.py`). C starts normal with standard deviation 1e-4, so that the model starts close to the base
model, u and v Xavier-uniform with gain sqrt(2). All layer norms of the backbone train as well, as in every run of the
authors.

Compacter has an adapter after the attention and one after the feed-forward layer of every block, Compacter++ only the
latter. Cross-attention has none.

Deviations: the inner width is the model's width divided by `reduction`, rounded up to a multiple of n, where the
authors' code wants a width that divides evenly; the authors choose `reduction` among 32, 16 and 8 on the validation
data, here it is 32. In other models than T5, theirs, adapters sit after the sublayer's dropout. The task head trains;
theirs, the language model's, is frozen. Their ablations (unfactorised, unshared C, shared u and v) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.errors import SettingsError
from bench.requirements import require_known, require_whole
from methods.adapter import AdapterMethod, widths

if TYPE_CHECKING:
    from torch import nn

    from bench.backbone.anatomy import Anatomy
    from bench.backbone.pretrained import Backbone

SUBLAYERS = ("attention", "ffn")


class Compacter(AdapterMethod):
    """Adapters after `sublayers` whose layers are sums of `division` Kronecker products of rank `rank` factors.

    `division` is n, `rank` is k; `learn_rule=false` freezes C at its start.
    """

    paper = "Mahabadi et al. 2021, arXiv:2106.04647"
    identity_at_start = False

    def __init__(
        self,
        learning_rate: float,
        sublayers: str | Sequence[str],
        reduction: int,
        nonlinearity: str,
        division: int,
        rank: int,
        learn_rule: bool,
        train_layernorm: bool,
    ) -> None:
        super().__init__(learning_rate, reduction, nonlinearity, train_layernorm=train_layernorm)
        self.sublayers = (sublayers,) if isinstance(sublayers, str) else tuple(sublayers)
        self.division = division
        self.rank = rank
        self.learn_rule = learn_rule
        self.rule: nn.Parameter

    def check(self, anatomy: Anatomy) -> None:
        """The sublayers must be known, the numbers whole, and n must divide the model's width."""
        for sublayer in self.sublayers:
            require_known("method.sublayers", sublayer, SUBLAYERS)
            if self.sublayers.count(sublayer) > 1:
                raise SettingsError(f"method.sublayers: '{sublayer}' can have one adapter only.")
        require_whole("method.division", self.division)
        require_whole("method.rank", self.rank)
        for width in widths(anatomy):
            if width % self.division:
                raise SettingsError(f"method.division={self.division} must divide the model's width ({width}).")
        super().check(anatomy)

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Make C, then the adapters that share it; in T5, the authors' model, before the sublayers' own dropout."""
        from methods.parts.bottleneck import residual_norm
        from methods.parts.phm import shared_rule

        if backbone.anatomy.find("cross_attention.query"):
            self.reads = "dense"
        self.rule = shared_rule(self.division, residual_norm(backbone.anatomy, 0).device)
        self.rule.requires_grad_(self.learn_rule)
        super().insert(backbone, total_steps)

    def size(self, width: int) -> int:
        """The inner width: a multiple of n."""
        return -(-(width // self.reduction) // self.division) * self.division

    def layers(self, width: int) -> tuple[nn.Module, nn.Module]:
        """Two hypercomplex layers."""
        from methods.parts.phm import PHMLinear

        size = self.size(width)
        return PHMLinear(self.rule, width, size, self.rank), PHMLinear(self.rule, size, width, self.rank)

    def norms(self, anatomy: Anatomy) -> Iterator[nn.Module]:
        """Every norm of the backbone: those of the embeddings and of the output too."""
        return (module for module in anatomy.backbone.modules() if "Norm" in type(module).__name__)
