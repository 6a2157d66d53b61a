"""Bottleneck adapters: two small dense layers with a non-linearity between, at one or two places of every block.

With f the bottleneck (`methods/parts/bottleneck.py`), x a sublayer's residual input, h its output after dense and
dropout, and LN the block's own layer norm, which stays frozen unless `train_layernorm`:

| variant  | sublayers      | post-LN block (BERT)            | pre-LN block (GPT-2, LLaMA, T5, ViT) |
| -------- | -------------- | ------------------------------- | ------------------------------------ |
| houlsby  | attention, ffn | LN(x + h + f(h))                | x + h + f(h)                         |
| pfeiffer | ffn            | LN(x + h + f(z)), z = LN(x + h) | x + h + f(z), z = x + h              |
| parallel | ffn            | LN(x + h + f(x))                | x + h + f(LN(x))                     |

DINOv2's layer scale is part of h. ViT's and Swin's dropout, one module for both sublayers, and Swin's and DINOv2's drop
path are not: they apply to h + f(h) and h + f(LN(x)) as a whole. A decoder's cross-attention has no adapter.

`scaled_parallel` is `parallel` with a scale that is learned, one number per adapter, from `scale` on. The parallel
adapter reads what the feed-forward layer itself reads, as in the paper; all else follows the adapters library
(adapter-hub/adapters), the authors' code, whose names are double_seq_bn, seq_bn, par_bn and scaled_par_bn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import SettingsError, suggestion
from methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from bench.anatomy import Anatomy
    from bench.backbone import Backbone
    from methods.parts.bottleneck import Bottleneck

NONLINEARITIES = {"relu": "ReLU", "swish": "SiLU", "gelu": "GELU", "tanh": "Tanh"}


@dataclass(frozen=True)
class Variant:
    """What sets one kind of bottleneck adapter apart: where it sits, what it reads and how it starts."""

    sublayers: tuple[str, ...]
    reads: str
    paper: str
    zero_up: bool = False
    learned_scale: bool = False


VARIANTS = {
    "houlsby": Variant(("attention", "ffn"), "output", "Houlsby et al. 2019, arXiv:1902.00751"),
    "pfeiffer": Variant(("ffn",), "sum", "Pfeiffer et al. 2021, arXiv:2005.00247"),
    "parallel": Variant(("ffn",), "input", "He et al. 2022, arXiv:2110.04366", zero_up=True),
    "scaled_parallel": Variant(("ffn",), "input", "He et al. 2022, arXiv:2110.04366", zero_up=True, learned_scale=True),
}


class BottleneckAdapter(Method):
    """Adapters of one `variant` in every block; their inner width is the model's width divided by `reduction`."""

    def __init__(
        self,
        learning_rate: float,
        variant: str,
        reduction: int,
        nonlinearity: str,
        scale: float,
        dropout: float,
        train_layernorm: bool,
    ) -> None:
        super().__init__(learning_rate)
        self.variant = variant
        self.reduction = reduction
        self.nonlinearity = nonlinearity
        self.scale = scale
        self.dropout = dropout
        self.train_layernorm = train_layernorm
        if variant in VARIANTS:
            self.identity_at_start = VARIANTS[variant].zero_up
            self.paper = VARIANTS[variant].paper

    def check(self, anatomy: Anatomy) -> None:
        """Names must be known, the bottleneck must keep a unit."""
        if self.variant not in VARIANTS:
            raise SettingsError(f"method.variant={self.variant} is unknown.{suggestion(self.variant, VARIANTS)}")
        if self.nonlinearity not in NONLINEARITIES:
            known = suggestion(self.nonlinearity, NONLINEARITIES)
            raise SettingsError(f"method.nonlinearity={self.nonlinearity} is unknown.{known}")
        width = min(_width(anatomy, index) for index in range(len(anatomy.blocks)))
        if self.reduction > width:
            raise SettingsError(f"method.reduction={self.reduction} is above the model's width ({width}).")

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Add the adapters to their blocks, as submodules `adapter_attention` and `adapter_ffn`, and connect them."""
        anatomy = backbone.anatomy
        for index, (_, block) in enumerate(anatomy.blocks):
            for sublayer in VARIANTS[self.variant].sublayers:
                adapter = self._bottleneck(anatomy, index)
                block.add_module(f"adapter_{sublayer}", adapter.train(block.training))
                self._connect(adapter, anatomy, index, sublayer)
        if self.train_layernorm:
            for part in anatomy.match(["norm"]):
                part.module.requires_grad_(True)

    def _bottleneck(self, anatomy: Anatomy, index: int) -> Bottleneck:
        """A new adapter on block `index`'s device, drawn on the CPU so that a seed gives the same start everywhere."""
        from torch import nn

        from methods.parts.bottleneck import Bottleneck

        variant, width = VARIANTS[self.variant], _width(anatomy, index)
        activation = getattr(nn, NONLINEARITIES[self.nonlinearity])()
        adapter = Bottleneck(
            width,
            width // self.reduction,
            activation,
            scale=self.scale,
            dropout=self.dropout,
            learned_scale=variant.learned_scale,
            zero_up=variant.zero_up,
        )
        return adapter.to(_part(anatomy, "norm.ffn", index).get_parameter("weight").device)

    def _connect(self, adapter: Bottleneck, anatomy: Anatomy, index: int, sublayer: str) -> None:
        """Hook the adapter into block `index` as the variant's row of the module's table says."""
        output = _part(anatomy, f"sublayer.{sublayer}_output", index)
        reads = VARIANTS[self.variant].reads
        if reads == "output":
            output.register_forward_hook(adapter.after_output)
        elif reads == "input":
            _part(anatomy, "ffn.up", index).register_forward_pre_hook(adapter.read_input)
            output.register_forward_hook(adapter.beside_output)
        elif anatomy.family.pre_norm:
            anatomy.blocks[index][1].register_forward_hook(adapter.after_block)
        else:
            _part(anatomy, "norm.ffn", index).register_forward_pre_hook(adapter.before_norm)


def _part(anatomy: Anatomy, role: str, index: int) -> nn.Module:
    """The module that plays `role` in block `index`."""
    return next(part.module for part in anatomy.find(role) if part.block == index)


def _width(anatomy: Anatomy, index: int) -> int:
    """The width of the residual stream in block `index`; Swin's grows from stage to stage."""
    return _part(anatomy, "norm.ffn", index).get_parameter("weight").shape[0]
