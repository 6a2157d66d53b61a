"""The two ends of every comparison table, and BitFit.

`full` trains everything, `linear_probe` the task head alone on fixed features, `bitfit` the bias terms and the head
(Ben-Zaken, Ravfogel, Goldberg 2022). None changes the forward pass, so a merged model is the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.errors import SettingsError
from methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Anatomy
    from bench.backbone.pretrained import Backbone


class FullFineTuning(Method):
    """Every parameter trains, each once (tied weights count once)."""

    mergeable = True
    family = "references"
    paper = "Devlin et al. 2019, arXiv:1810.04805"

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Unfreeze the whole model."""
        backbone.model.requires_grad_(True)


class LinearProbe(Method):
    """Only the head trains; of a language model, which has none, its output layer, untied from the embeddings.

    With `eval_mode` the backbone runs without dropout, so that its features are the same in every epoch; the authors
    of BitFit, whose "frozen" baseline this is, leave dropout on.
    """

    mergeable = True
    family = "references"
    paper = "Alain, Bengio 2016, arXiv:1610.01644"

    def __init__(self, learning_rate: float, eval_mode: bool = True) -> None:
        super().__init__(learning_rate)
        self.eval_mode = eval_mode

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Nothing to add where there is a head, which is trainable already."""
        layer = backbone.anatomy.output_layer
        if layer is not None:
            from torch import nn

            layer.weight = nn.Parameter(layer.get_parameter("weight").detach().clone())

    def compute_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The task loss over features computed with the backbone in evaluation mode."""
        if self.eval_mode:
            self.backbone.anatomy.backbone.eval()
        return super().compute_loss(model, batch)


class BitFit(Method):
    """Bias terms and the head train: Ben-Zaken, Ravfogel, Goldberg 2022."""

    mergeable = True
    family = "biases, scales, sparse parts"
    paper = "Ben-Zaken et al. 2022, arXiv:2106.10199"

    def check(self, anatomy: Anatomy) -> None:
        """A backbone without bias terms would leave the head alone: refuse it."""
        if not any(name.endswith(".bias") for _, block in anatomy.blocks for name, _ in block.named_parameters()):
            raise SettingsError(
                "method=bitfit needs a model with bias terms; this one has none, but method=ln_tuning may serve."
            )

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Unfreeze every parameter whose name ends in ".bias"."""
        for name, parameter in backbone.model.named_parameters():
            if name.endswith(".bias"):
                parameter.requires_grad_(True)
