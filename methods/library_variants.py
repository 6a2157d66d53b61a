"""Library methods that need more than a configuration: a rate per part, a penalty, a gradient rule, a schedule."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.backbone.anatomy import LINEAR_ROLES
from bench.backbone.kinds import KINDS
from bench.errors import SettingsError
from methods.library import LibraryMethod

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.tuners.adamss.layer import AdamssLayer
    from peft.tuners.lora import LoraLayer
    from torch import Tensor, nn

    from bench.backbone.anatomy import Part
    from bench.backbone.pretrained import Backbone

ADAPTER = "default"
SPLIT_BY_INPUTS = ("attention.output", "cross_attention.output", "ffn.down")
SPLIT_BY_OUTPUTS = tuple(role for role in LINEAR_ROLES if role not in SPLIT_BY_INPUTS)
"""How a model that is spread over devices splits its linear layers."""
JITTER = 1e-8
IMPORTANCE = ("exp_avg_ipt_A", "exp_avg_ipt_B", "exp_avg_unc_A", "exp_avg_unc_B")


class LoraPlus(LibraryMethod):
    """LoRA with a higher learning rate for B: Hayou, Ghosh, Yu 2024.

    The authors' grouping: every `lora_B` and every tensor with one dimension gets `ratio` times the learning rate of
    the others. Weight decay is 0, as in the authors' runs, where the setting never reached the optimizer.
    """

    def __init__(self, ratio: float, weight_decay: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.ratio = ratio
        self.weight_decay = weight_decay

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups by learning rate first, by decay second; the method's own weight decay applies."""
        groups = super().parameter_groups(learning_rate, self.weight_decay)
        fast = {id(p) for n, p in self.backbone.model.named_parameters() if "lora_B" in n or p.ndim == 1}
        split: list[dict[str, Any]] = []
        for group in groups:
            for is_fast, rate in ((False, learning_rate), (True, learning_rate * self.ratio)):
                members = [parameter for parameter in group["params"] if (id(parameter) in fast) == is_fast]
                if members:
                    split.append({**group, "params": members, "lr": rate})
        return split


class LoraFA(LibraryMethod):
    """LoRA with A frozen at its random start: Zhang et al. 2023.

    B's gradient becomes the one whose weight update is nearest to full fine-tuning's,
    g_B <- (1/s^2) g_B (A A^T)^-1 with s = alpha / rank, as in PEFT's `LoraFAOptimizer`.
    """

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Insert LoRA, then freeze every A."""
        super().insert(backbone, total_steps)
        for layer in _lora_layers(backbone):
            layer.lora_A[ADAPTER].requires_grad_(False)

    def after_backward(self, step: int) -> None:
        """Project B's gradients; A A^T is rank x rank."""
        import torch

        with torch.no_grad():
            for layer in _lora_layers(self.backbone):
                a, gradient = layer.lora_A[ADAPTER].weight.float(), layer.lora_B[ADAPTER].weight.grad
                gradient.copy_(gradient @ _inverse(a @ a.T, JITTER) / layer.scaling[ADAPTER] ** 2)


class RiemannianLora(LibraryMethod):
    """LoRA with preconditioned gradients: Zhang, Pilanci 2024.

    g_A <- (B^T B + damping I)^-1 g_A and g_B <- g_B (A A^T + damping I)^-1 before the optimizer sees them.
    """

    def __init__(self, damping: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.damping = damping

    def after_backward(self, step: int) -> None:
        """Precondition both factors' gradients with the old weights."""
        import torch

        with torch.no_grad():
            for layer in _lora_layers(self.backbone):
                a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
                a.grad.copy_(_inverse(b.T @ b, self.damping) @ a.grad)
                b.grad.copy_(b.grad @ _inverse(a @ a.T, self.damping))


class BlockDiagonalLora(LibraryMethod):
    """BD-LoRA: B of layers that are split by outputs, A of those split by inputs, is block-diagonal: Wang et al. 2025.

    The roles of the targets decide; PEFT refuses a target that has none.
    """

    def _config(self, parts: Sequence[Part], head: Sequence[str]) -> PeftConfig:
        config = super()._config(parts, head)
        config.use_bdlora.target_modules_bd_a = [part.name for part in parts if part.role in SPLIT_BY_INPUTS]
        config.use_bdlora.target_modules_bd_b = [part.name for part in parts if part.role in SPLIT_BY_OUTPUTS]
        return config


class Kasa(LibraryMethod):
    """KaSA: W0 without its `rank` smallest singular components, plus s B diag(d) A: Wang et al. 2025.

    The penalty keeps d small and A, B near semi-orthogonal: the mean over the layers, as in the authors' code, of
    beta ||d||^2 + gamma (||B^T B - I|| + ||A A^T - I||). These r x r products are PEFT's and the paper's equation 11;
    the authors' code has B B^T (out x out) and A^T A (in x in) in their place.
    """

    def penalty(self) -> Tensor:
        """The two regularisers, a mean over the layers."""
        layers = sum(1 for _ in _lora_layers(self.backbone))
        total: Tensor = self.backbone.model.base_model._get_kasa_loss()
        return total / layers


class MonteCarloLora(LibraryMethod):
    """MonteCLoRA: A is perturbed by learned noise in training, with a variational penalty: Sengupta et al. 2024."""

    def penalty(self) -> Tensor | None:
        """The mean over the layers of the divergence from the prior; none outside training."""
        model = self.backbone.model
        return model.base_model._get_monteclora_loss() if model.training else None

    def before_step(self, step: int) -> None:
        """Begin with noise of the training's own random state, whatever was drawn before."""
        if step == 0:
            self._drop_drawn_noise()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """With `buffer_size` 1 no noise is drawn in advance, and a resumed run is exact."""
        self._drop_drawn_noise()

    def _drop_drawn_noise(self) -> None:
        from peft.tuners.lora.monteclora import BufferedMontecloraSampler, MontecloraSampler

        for module in self.backbone.model.modules():
            if isinstance(module, MontecloraSampler):
                noise: BufferedMontecloraSampler = module.sampler
                noise.index = noise.buffer_size


class AdaMSS(LibraryMethod):
    """AdaMSS, with its adaptive allocation of subspaces spread over the run.

    With `options.use_asa` the number of active subspaces falls from all to `asa_target_subspaces` between the steps
    `warmup_ratio` and `final_ratio` of the run.
    """

    def __init__(self, warmup_ratio: float, final_ratio: float, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0.0 <= warmup_ratio < final_ratio <= 1.0:
            raise SettingsError(
                f"method needs 0 <= warmup_ratio < final_ratio <= 1, not {warmup_ratio} and {final_ratio}."
            )
        self.warmup_ratio = warmup_ratio
        self.final_ratio = final_ratio

    def complete(self, config: PeftConfig, backbone: Backbone, total_steps: int) -> None:
        """Turn the ratios into steps; mask at most every tenth of the span."""
        config.init_warmup = round(self.warmup_ratio * total_steps)
        config.final_warmup = max(round(self.final_ratio * total_steps), config.init_warmup + 1)
        config.mask_interval = min(config.mask_interval, max(1, (config.final_warmup - config.init_warmup) // 10))

    def after_step(self, step: int) -> None:
        """Update the importance of every subspace and mask the least important ones."""
        self.backbone.model.base_model.update_and_allocate(step)

    def state_dict(self) -> dict[str, Any]:
        """The masked tensors, which no longer count as trainable, and the importance scores."""
        masked = {name: tensor.detach().clone() for name, tensor in self._subspaces() if not tensor.requires_grad}
        scores = [getattr(layer, kind)[ADAPTER] for layer in self._layers() for kind in IMPORTANCE]
        return copy.deepcopy({"masked": masked, "scores": scores})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Mask the same tensors and go on with the same scores."""
        for name, tensor in self._subspaces():
            if name in state["masked"]:
                tensor.data.copy_(state["masked"][name])
                tensor.requires_grad_(False)
        from accelerate.utils import send_to_device

        scores = iter(copy.deepcopy(state["scores"]))
        for layer in self._layers():
            device = next(layer.parameters()).device
            for kind in IMPORTANCE:
                getattr(layer, kind)[ADAPTER] = send_to_device(next(scores), device)

    def _layers(self) -> list[AdamssLayer]:
        from peft.tuners.adamss.layer import AdamssLayer

        layers = [module for module in self.backbone.model.modules() if isinstance(module, AdamssLayer)]
        return [layer for layer in layers if ADAPTER in layer.exp_avg_ipt_A]

    def _subspaces(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, tensor) for name, tensor in self.backbone.model.named_parameters() if "adamss_" in name)


class Lily(LibraryMethod):
    """Lily: A shared by neighbouring layers, B by all layers through a router: Zhong et al. 2024.

    The router's weights for the B are averaged over all examples and positions of the batch, padding included, as in
    the authors' code: an output depends on what else is in the batch, also in evaluation. In a language model every
    position would see those after it, so the kinds of task that such a model serves are refused.
    """

    kinds = frozenset(name for name, kind in KINDS.items() if kind.model != "language")

    def complete(self, config: PeftConfig, backbone: Backbone, total_steps: int) -> None:
        """Name the targets by their place in a block: PEFT shares A and B among targets of one name only."""
        parts = self._parts(backbone.anatomy)
        names = {part.name for part in parts}
        blocks = [prefix for prefix, _ in backbone.anatomy.blocks]
        targets = {part.name.removeprefix(f"{blocks[part.block]}.") for part in parts}
        suffixes = tuple(f".{target}" for target in targets)
        config.target_modules = targets
        config.exclude_modules = {
            name for name, _ in backbone.model.named_modules() if name.endswith(suffixes) and name not in names
        }


def _lora_layers(backbone: Backbone) -> Iterator[LoraLayer]:
    from peft.tuners.lora import LoraLayer

    return (module for module in backbone.model.modules() if isinstance(module, LoraLayer))


def _inverse(matrix: Tensor, damping: float) -> Tensor:
    """The inverse of a symmetric matrix after `damping` is added to its diagonal, in float32; safe for lost rank."""
    import torch

    return torch.linalg.pinv(matrix.float() + damping * torch.eye(len(matrix), device=matrix.device))
