"""MAM adapter: prefixes in attention, a scaled parallel adapter beside the FFN (He et al. 2022, arXiv:2110.04366).

The paper writes prefix tuning, adapters and LoRA as one form, h <- h + s dh(x), and mixes what was best where: a few
prefixes in the attention's heads, an adapter beside the feed-forward layer.

- Attention of every layer sees `length` (l) more keys and values P_k, P_v ahead of its own
  (`methods/parts/attention_prefix.py`). For one head this is the gated sum (1 - lambda) h + lambda dh with
  dh = softmax(x W_q P_k^T) P_v and lambda the share that the prefix has of the softmax's sum. While training, all
  prefixes come out of one embedding, P = tanh(E W_1 + b_1) W_2 + b_2, through `middle` (m) features; `finish` keeps the
  2 l d numbers per layer and drops the generator, and a saved adapter holds no more than these. With
  `projection=false` they are trained as they are and start with standard deviation 0.02.
- The feed-forward layer's output h, with x its input, becomes h + s (U dropout(relu(D x + b_D)) + b_U); U starts at 0.

The prefix takes its part of the attention from the start, so the model does not start at the base model. Both parts
train at one learning rate, and the generator multiplies it: on MiniLM, Adam's first step at 1e-3 moves the prefixes by
a third of their size. The authors train RoBERTa at 1e-4 for ten epochs; in a few hundred steps adapters learn little at
such a rate.

Deviations: the authors' runs draw U anew from N(0, 0.02^2) when the checkpoint is loaded, and leave the classifier
frozen by the name that their filter looks for; here U starts at 0, as their paper and options say, and the head trains.
They build two further generators and a second feed-forward adapter that RoBERTa never uses; here there is one of each.
Keys and values of decoders with grouped heads are as wide as the model's own. Their Adam has betas 0.9 and 0.98 and an
epsilon of 1e-6; the optimizer here is the benchmark's. A learned s is left out, and so are the other rows of their
table of designs: `lora`, `prefix_tuning`, `houlsby` and `parallel_adapter` are methods of their own. Models with an
encoder and a decoder are refused; the authors run BART with three generators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import SettingsError
from bench.requirements import require_whole
from methods.adapter import TemporaryAdapter, widths

if TYPE_CHECKING:
    from torch import nn

    from bench.backbone.anatomy import Anatomy
    from bench.backbone.pretrained import Backbone

UNPROJECTED_STD = 0.02


class MixAndMatch(TemporaryAdapter):
    """Prefixes of `length` keys and values, parallel adapters of the width that `reduction` leaves, scaled by `scale`.

    `dropout` lies within the adapters.
    """

    paper = "He et al. 2022, arXiv:2110.04366"
    identity_at_start = False
    sublayers = ("ffn",)
    reads = "input"

    def __init__(
        self,
        learning_rate: float,
        length: int,
        projection: bool,
        middle: int,
        reduction: int,
        nonlinearity: str,
        scale: float,
        dropout: float,
    ) -> None:
        super().__init__(learning_rate, reduction, nonlinearity, scale, inner_dropout=dropout)
        self.length = length
        self.projection = projection
        self.middle = middle

    def check(self, anatomy: Anatomy) -> None:
        """The sizes must be whole numbers, and a prefix must be able to reach the attention."""
        super().check(anatomy)
        require_whole("method.length", self.length)
        require_whole("method.middle", self.middle)
        if anatomy.find("cross_attention.query"):
            raise SettingsError("method: a prefix needs an encoder or a decoder; this model is both in one.")
        if not getattr(anatomy.backbone, "_supports_sdpa", False):
            model = type(anatomy.backbone).__name__
            raise SettingsError(f"method: a prefix needs attention in the form of torch's own; {model} has another.")

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Add the adapters, then the prefixes."""
        from methods.parts.attention_prefix import add_generated_prefixes, add_prefixes

        super().insert(backbone, total_steps)
        if self.projection:
            width = max(widths(backbone.anatomy))
            add_generated_prefixes(backbone.model, backbone.anatomy, self.length, width, self.middle)
        else:
            add_prefixes(backbone.model, backbone.anatomy, self.length, UNPROJECTED_STD)

    def layers(self, width: int) -> tuple[nn.Module, nn.Module]:
        """Two dense layers, the second zero."""
        from methods.parts.bottleneck import dense_pair

        return dense_pair(width, self.size(width), zero_up=True)
