"""SparseAdapter: adapters that are pruned before they train (He et al. 2022, EMNLP Findings, arXiv:2210.04284).

The weights of a host's adapters, D and U of `host` (`methods/adapter.py`), get one fixed binary mask before the first
step, and training goes on under it: f(z) = s ((U * m_U) dropout(relu((D * m_D) z + b_D)) + b_U). Biases and the head
are not masked. The mask keeps the weights with the highest scores (`methods/parts/pruning.py`):

| pruner  | score                                                                                        |
| ------- | -------------------------------------------------------------------------------------------- |
| rand    | a random number                                                                              |
| mag     | abs(theta)                                                                                   |
| snip    | abs(theta g), g the gradient of the task's loss, summed over the scoring batches             |
| grasp   | theta H g, H the Hessian of that loss                                                        |
| synflow | abs(theta g), g the gradient of each adapter's output for ones, all parameters made positive |
| er      | none: a random mask, denser in small tensors (Erdos-Renyi)                                   |

With scope "global" k = ceil((1 - keep_ratio) N) of all N weights go, with "local" floor((1 - keep_ratio) n) of every
tensor of n. Scores come from 32 random training examples per class, in evaluation mode and float32. Large-Sparse
(`large_sparse` = q) makes the bottleneck q times as wide and keeps 1 / q of it, as many weights as the dense host has,
unless `keep_ratio` says otherwise.

Both D and U start normal with standard deviation 0.02, in the parallel hosts too: with a U of zeros every score of D
and U is 0 or undefined. A mask that leaves no adapter a way from D to U ends the run with an error.

Deviations: both of the authors' adapters normalise their input with a trained layer norm of their own, and that of
attention sits before the output's dropout; here they are those of `host`. Their GLUE script freezes the head, here it
trains. It scores 320 examples whatever the number of classes. GraSP scores batches of the same size as the others, not
of half of it. Er is in their paper alone; in adapters, whose tensors are all of one size, it is a random mask with the
scope "local". Pruning in several rounds is left out, and so are LoRA and MAM as hosts. Models of text completions have
no classes and are scored on 64 examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from bench.requirements import SHARE, require_known, require_number, require_whole
from methods.adapter import VARIANTS, BottleneckAdapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.backbone.anatomy import Anatomy
    from bench.backbone.pretrained import Backbone

PRUNERS = ("rand", "mag", "snip", "grasp", "synflow", "er")
SCOPES = ("global", "local")
EXAMPLES_PER_CLASS = 32
KEEP_RATIO = 0.6

Draw = Callable[[int], Iterator[Mapping[str, "Tensor"]]]


class SparseAdapter(BottleneckAdapter):
    """The adapters of `host`, of which `pruner` keeps `keep_ratio` before training.

    A keep ratio of None is 1 / `large_sparse`, or 0.6 where that is 1. With a keep ratio of 1 nothing is scored and the
    run is that of the dense host. `dropout` lies within the adapters.
    """

    paper = "He et al. 2022, arXiv:2210.04284"

    def __init__(
        self,
        learning_rate: float,
        host: str,
        pruner: str,
        scope: str,
        keep_ratio: float | None,
        large_sparse: int,
        reduction: int,
        nonlinearity: str,
        scale: float,
        dropout: float,
    ) -> None:
        settings = {"reduction": reduction, "nonlinearity": nonlinearity, "scale": scale, "inner_dropout": dropout}
        super().__init__(learning_rate, host, **settings)
        self.paper = type(self).paper
        self.zero_up = self.identity_at_start = False
        self.pruner = pruner
        self.scope = scope
        self.large_sparse = large_sparse
        self.keep_ratio = keep_ratio

    def check(self, anatomy: Anatomy) -> None:
        """Names must be known, and the ratios in their ranges."""
        require_known("method.host", self.variant, VARIANTS)
        require_known("method.pruner", self.pruner, PRUNERS)
        require_known("method.scope", self.scope, SCOPES)
        require_whole("method.large_sparse", self.large_sparse)
        require_number("method.keep_ratio", self.kept_share, SHARE)
        super().check(anatomy)

    @property
    def kept_share(self) -> float:
        """The share of the weights that the masks keep."""
        if self.keep_ratio is not None:
            return self.keep_ratio
        return KEEP_RATIO if self.large_sparse == 1 else 1 / self.large_sparse

    def size(self, width: int) -> int:
        """The inner width, `large_sparse` times the host's."""
        return self.large_sparse * super().size(width)

    def layers(self, width: int) -> tuple[nn.Module, nn.Module]:
        """Two masked layers whose masks keep everything."""
        from methods.parts.bottleneck import initialise
        from methods.parts.pruning import MaskedLinear

        down, up = MaskedLinear(width, self.size(width)), MaskedLinear(self.size(width), width)
        initialise(down, up)
        return down, up

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Add the adapters."""
        from methods.parts.pruning import MaskedLinear

        super().insert(backbone, total_steps)
        named = backbone.model.named_modules()
        self.masked = {name: module for name, module in named if isinstance(module, MaskedLinear)}

    def prepare(self, draw: Draw) -> None:
        """Decide the masks. Raises SettingsError where they leave no adapter of use."""
        if self.kept_share == 1:
            return
        masks = self._masks(draw)
        if not any(down.any() and up.any() for down, up in zip(masks[0::2], masks[1::2], strict=True)):
            raise SettingsError(
                f"method.pruner={self.pruner} with method.keep_ratio={self.kept_share} leaves no adapter with weights "
                "in both of its layers."
            )
        for layer, mask in zip(self.masked.values(), masks, strict=True):
            layer.mask.copy_(mask)

    def _masks(self, draw: Draw) -> list[Tensor]:
        """The masks of all layers, D before U."""
        from methods.parts import pruning

        if self.pruner == "er":
            return pruning.erdos_renyi_masks(self._weights, self.kept_share, self.random(0))
        scores = self._scores(draw)
        if not all(score.isfinite().all() for score in scores):
            raise SettingsError(f"method.pruner={self.pruner} gives scores that are no finite numbers.")
        make = pruning.global_masks if self.scope == "global" else pruning.local_masks
        return make(scores, self.kept_share)

    def _scores(self, draw: Draw) -> list[Tensor]:
        """The scores of all weights, D before U."""
        from methods.parts import pruning

        model, weights = self.backbone.model, self._weights
        if self.pruner == "rand":
            return pruning.random_scores(weights, self.random(0))
        if self.pruner == "mag":
            return pruning.magnitudes(weights)
        with pruning.scoring(model):
            if self.pruner == "synflow":
                adapters = [model.get_submodule(name.removesuffix(".down")) for name in list(self.masked)[0::2]]
                return pruning.synaptic_flows(adapters)
            if self.pruner == "snip":
                return pruning.sensitivities(weights, pruning.summed_gradients(self._losses(draw), weights))
            products = pruning.hessian_gradient_products(lambda: self._losses(draw), weights)
            return pruning.gradient_flows(weights, products)

    def _losses(self, draw: Draw) -> Iterator[Tensor]:
        """The task's loss for every batch of the scoring examples."""
        classes: int = self.backbone.model.config.num_labels
        for batch in draw(EXAMPLES_PER_CLASS * classes):
            yield self.compute_loss(self.backbone.model, batch)[1]

    @property
    def _weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.masked.values()]

    def report(self) -> dict[str, Any]:
        """How many weights the masks keep, the share of all that this is, and each layer's share."""
        kept = {name: int(layer.mask.sum()) for name, layer in self.masked.items()}
        sizes = {name: layer.mask.numel() for name, layer in self.masked.items()}
        return {
            "kept_weights": sum(kept.values()),
            "density": sum(kept.values()) / sum(sizes.values()),
            "densities": {name: kept[name] / sizes[name] for name in kept},
        }

    def stored_tensors(self) -> dict[str, Tensor]:
        """The masks as well."""
        return super().stored_tensors() | {f"{name}.mask": layer.mask for name, layer in self.masked.items()}

    def finish(self) -> None:
        """Let the masked weights be zeros of plain layers."""
        from methods.parts.linear import replace_module

        for name, layer in self.masked.items():
            replace_module(self.backbone.model, name, layer.finished())
