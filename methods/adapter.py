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
(adapter-hub/adapters), whose names are double_seq_bn, seq_bn, par_bn and scaled_par_bn. It is the authors' own code for
pfeiffer alone: that of houlsby is google-research/adapter-bert, of parallel jxhe/unify-parameter-efficient-tuning. The
former has gelu, 64 features, a start of N(0, 0.001^2) cut at two deviations, and trains the layer norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bench.errors import SettingsError
from bench.requirements import require_known
from methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Anatomy
    from bench.backbone.pretrained import Backbone
    from methods.parts.bottleneck import Bottleneck, Reads

NONLINEARITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("ReLU", {}),
    "swish": ("SiLU", {}),
    "gelu": ("GELU", {}),
    "gelu_new": ("GELU", {"approximate": "tanh"}),
    "tanh": ("Tanh", {}),
}


@dataclass(frozen=True)
class Variant:
    """What sets one kind of bottleneck adapter apart: where it sits, what it reads and how it starts."""

    sublayers: tuple[str, ...]
    reads: Reads
    paper: str
    zero_up: bool = False
    learned_scale: bool = False


VARIANTS = {
    "houlsby": Variant(("attention", "ffn"), "output", "Houlsby et al. 2019, arXiv:1902.00751"),
    "pfeiffer": Variant(("ffn",), "sum", "Pfeiffer et al. 2021, arXiv:2005.00247"),
    "parallel": Variant(("ffn",), "input", "He et al. 2022, arXiv:2110.04366", zero_up=True),
    "scaled_parallel": Variant(("ffn",), "input", "He et al. 2022, arXiv:2110.04366", zero_up=True, learned_scale=True),
}


class AdapterMethod(Method):
    """An adapter at each of `sublayers` in every block; a subclass makes its two layers (`layers`).

    The inner width is the block's width divided by `reduction` (`size`). `dropout` falls on an adapter's output,
    `inner_dropout` between its non-linearity and its second layer.
    """

    family = "adapters"
    sublayers: tuple[str, ...] = ("ffn",)
    reads: Reads = "output"
    learned_scale = False

    def __init__(
        self,
        learning_rate: float,
        reduction: int,
        nonlinearity: str,
        scale: float = 1.0,
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
        train_layernorm: bool = False,
    ) -> None:
        super().__init__(learning_rate)
        self.reduction = reduction
        self.nonlinearity = nonlinearity
        self.scale = scale
        self.dropout = dropout
        self.inner_dropout = inner_dropout
        self.train_layernorm = train_layernorm

    def check(self, anatomy: Anatomy) -> None:
        """Names must be known, the bottleneck must keep a unit."""
        require_known("method.nonlinearity", self.nonlinearity, NONLINEARITIES)
        width = min(widths(anatomy))
        if self.reduction > width:
            raise SettingsError(f"method.reduction={self.reduction} is above the model's width ({width}).")

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Add the adapters to their blocks, as submodules `adapter_attention` and `adapter_ffn`, and connect them."""
        from methods.parts.bottleneck import connect

        anatomy = backbone.anatomy
        for index, (_, block) in enumerate(anatomy.blocks):
            for sublayer in self.sublayers:
                adapter = self._bottleneck(anatomy, index)
                block.add_module(f"adapter_{sublayer}", adapter.train(block.training))
                connect(adapter, anatomy, index, sublayer, self.reads)
        if self.train_layernorm:
            for norm in self.norms(anatomy):
                norm.requires_grad_(True)

    def size(self, width: int) -> int:
        """The inner width of an adapter in a block of this width."""
        return width // self.reduction

    def layers(self, width: int) -> tuple[nn.Module, nn.Module]:
        """An adapter's first layer, from `width` to `size(width)` features, and its second layer, back; on the CPU."""
        raise NotImplementedError

    def activation(self) -> nn.Module:
        """What lies between the two layers."""
        from torch import nn

        name, options = NONLINEARITIES[self.nonlinearity]
        nonlinearity: nn.Module = getattr(nn, name)(**options)
        return nn.Sequential(nonlinearity, nn.Dropout(self.inner_dropout)) if self.inner_dropout else nonlinearity

    def norms(self, anatomy: Anatomy) -> Iterator[nn.Module]:
        """The norms that `train_layernorm` lets train: those of the blocks."""
        return (part.module for part in anatomy.match(["norm"]))

    def _bottleneck(self, anatomy: Anatomy, index: int) -> Bottleneck:
        """A new adapter on block `index`'s device, drawn on the CPU so that a seed gives the same start everywhere."""
        from methods.parts.bottleneck import Bottleneck, residual_norm

        norm = residual_norm(anatomy, index)
        down, up = self.layers(len(norm))
        adapter = Bottleneck(down, self.activation(), up, self.scale, self.dropout, self.learned_scale)
        return adapter.to(norm.device)


class BottleneckAdapter(AdapterMethod):
    """Adapters of one `variant`, made of dense layers."""

    def __init__(self, learning_rate: float, variant: str, **settings: Any) -> None:
        super().__init__(learning_rate, **settings)
        self.variant = variant
        if variant in VARIANTS:
            kind = VARIANTS[variant]
            self.sublayers, self.reads, self.learned_scale = kind.sublayers, kind.reads, kind.learned_scale
            self.zero_up = self.identity_at_start = kind.zero_up
            self.paper = kind.paper

    def check(self, anatomy: Anatomy) -> None:
        """The variant must be known as well."""
        require_known("method.variant", self.variant, VARIANTS)
        super().check(anatomy)

    def layers(self, width: int) -> tuple[nn.Module, nn.Module]:
        """Two dense layers."""
        from methods.parts.bottleneck import dense_pair

        return dense_pair(width, self.size(width), self.zero_up)


@runtime_checkable
class TrainingForm(Protocol):
    """A module that training needs and that leaves something simpler behind."""

    def finished(self) -> nn.Module:
        """What takes its place after training."""


class TemporaryAdapter(AdapterMethod):
    """An adapter method with modules that only training needs; what is stored and served is what they leave behind."""

    def finish(self) -> None:
        """Put what they leave behind in the place of the modules that only training needs."""
        from methods.parts.linear import replace_module

        for name, module in self._training_forms().items():
            replace_module(self.backbone.model, name, module.finished())

    def stored_tensors(self) -> dict[str, Tensor]:
        """The method's tensors as they will be after training."""
        forms = self._training_forms()
        within = tuple(f"{name}." for name in forms)
        stored = {name: tensor for name, tensor in super().stored_tensors().items() if not name.startswith(within)}
        for name, module in forms.items():
            stored |= {f"{name}.{own}": tensor.detach() for own, tensor in module.finished().named_parameters()}
        return stored

    def load(self, folder: Path) -> None:
        """Read what `save` wrote into an attached method, which is finished thereby."""
        self.finish()
        super().load(folder)

    def _training_forms(self) -> dict[str, TrainingForm]:
        named = self.backbone.model.named_modules()
        return {name: module for name, module in named if isinstance(module, TrainingForm)}


def widths(anatomy: Anatomy) -> list[int]:
    """The width of the residual stream in every block."""
    from methods.parts.bottleneck import residual_norm

    return [len(residual_norm(anatomy, index)) for index in range(len(anatomy.blocks))]
