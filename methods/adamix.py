"""AdaMix: a mixture of adapters, routed by lot, that ends as one adapter (Wang et al. 2022, EMNLP, arXiv:2205.12410).

Every block has one adapter on what its feed-forward layer's last dense layer puts out, before dropout, sum and norm,

    h <- h + U_j gelu(D_i h + a_i) + c_j,

with M experts for the first layer and, by default, one U for all (`share_up`). A training step makes two passes over
its batch. For each pass every adapter draws i and j independently and uniformly from its M experts, once for the whole
batch; dropout is each pass's own as well. With their logits p and q

    L = task loss(p) + w (KL(q' || p) + KL(p' || q)) / 2,

where ' marks a distribution that gets no gradient; the divergence is the mean over the examples, or over the target
tokens of generated text. w is 1, and 100 for language models. A regression has no distribution and makes one pass.
Evaluation runs the adapter of the experts' mean weights; `finish` leaves nothing else, and it is all that is saved.

Both passes are one call of the model on the batch and its repetition, whose halves take different routes: the sums are
those of two calls, in less time, and a wrapper that averages gradients over processes sees one pass. The draws are a
function of the step, the same in all processes and in all parts that a batch is cut into for want of memory. An expert
that was not drawn in a step has no gradient and stays as it is, momentum included.

Deviations: the authors draw from torch's global stream, a route per process. Under their PyTorch, which clears
gradients to zeros, an expert that was drawn once moves by its momentum and decays in every later step. Their code for
BERT has no second pass, only RoBERTa's and GPT-2's has; here every model makes it. Logits of STS-B are not clipped at
0. Of the two adaptations that their code has for GPT-2, decoders get the adapter in the feed-forward layer; the mixture
of LoRA in attention is left out, and so are the inference forms that run all experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.backbone.kinds import KINDS
from bench.requirements import NOT_NEGATIVE, require_number, require_whole
from methods.adapter import TemporaryAdapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Anatomy
    from bench.backbone.pretrained import Backbone

IGNORED = -100
"""The label of a token that nothing is asked about."""


class AdaMix(TemporaryAdapter):
    """Adapters whose layers are mixtures of `experts` (M) unless they are shared; `consistency_weight` is w.

    A w of None is 1, or 100 of a language model; with 0 a step makes one pass.
    """

    paper = "Wang et al. 2022, arXiv:2205.12410"
    identity_at_start = False
    uses_every_parameter = False
    sublayers = ("ffn",)
    reads = "dense"

    def __init__(
        self,
        learning_rate: float,
        experts: int,
        share_down: bool,
        share_up: bool,
        consistency_weight: float | None,
        reduction: int,
        nonlinearity: str,
    ) -> None:
        super().__init__(learning_rate, reduction, nonlinearity)
        self.experts = experts
        self.share_down = share_down
        self.share_up = share_up
        self.consistency_weight = consistency_weight

    def check(self, anatomy: Anatomy) -> None:
        """There must be experts, and the weight of the divergence must not be negative."""
        super().check(anatomy)
        require_whole("method.experts", self.experts)
        if self.consistency_weight is not None:
            require_number("method.consistency_weight", self.consistency_weight, NOT_NEGATIVE)

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Add the mixtures."""
        from methods.parts.mixture import Mixture

        super().insert(backbone, total_steps)
        self.mixtures = [module for module in backbone.model.modules() if isinstance(module, Mixture)]
        self.before_step(0)

    def layers(self, width: int) -> tuple[nn.Module, nn.Module]:
        """The experts, each with a start of its own; a layer that is shared is one dense layer."""
        from methods.parts.bottleneck import dense_pair
        from methods.parts.mixture import Mixture

        pairs = [dense_pair(width, self.size(width)) for _ in range(self.experts)]
        downs, ups = ([pair[side] for pair in pairs] for side in (0, 1))
        return (downs[0] if self.share_down else Mixture(downs)), (ups[0] if self.share_up else Mixture(ups))

    def before_step(self, step: int) -> None:
        """Draw an expert for every mixture and pass."""
        drawn = self.random(step).integers(self.experts, size=(len(self.mixtures), self._passes)).tolist()
        for mixture, routes in zip(self.mixtures, drawn, strict=True):
            mixture.routes = tuple(routes)

    def compute_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The first pass's loss with the divergence of both passes, and without."""
        import torch

        from methods.parts.mixture import symmetric_divergence

        labels, passes = batch["labels"], self._passes
        inputs = {name: torch.cat((tensor,) * passes) for name, tensor in batch.items() if name != "labels"}
        logits = model(**inputs).logits.chunk(passes)
        task_loss = self.backbone.loss(logits[0], labels)
        if passes == 1:
            return task_loss, task_loss
        first, second = (answers(self.backbone.kind, one, labels) for one in logits)
        return task_loss + self._weight * symmetric_divergence(first, second), task_loss

    @property
    def _passes(self) -> int:
        """How often a step goes through the model: the second time is for the divergence alone."""
        return 2 if self._weight else 1

    @property
    def _weight(self) -> float:
        """w for the kind of task."""
        if self.backbone.kind == "regression":
            return 0.0
        if self.consistency_weight is not None:
            return self.consistency_weight
        return 100.0 if KINDS[self.backbone.kind].model == "language" else 1.0


def answers(kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The logits behind each answer that the loss asks for, (answers, classes).

    An answer is an example's class, its choice, or the next token at each place that has a label.
    """
    if KINDS[kind].model == "language":
        # Selecting waits for the device, but a divergence at every place of a large vocabulary costs more.
        return logits[:, -labels.shape[1] : -1][labels[:, 1:] != IGNORED]
    return logits.view(len(labels), -1)
