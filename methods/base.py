"""The contract between the training loop and an adaptation method.

One object per run, built from `conf/method/<name>.yaml`. The loop calls, in this order:

    check(anatomy)            settings against a skeleton without weights, before anything is loaded
    plan_steps(steps)         what happens when; before anything is loaded too, where the run's length is set
    attach(backbone, steps)   freeze, insert, select; before the optimizer exists
    prepare(draw)             look at training examples, where the method needs some before it trains
    parameter_groups(...)     what the optimizer trains, and how
    per optimizer step:       before_step -> compute_loss -> backward -> after_backward -> optimizer -> after_step
    report()                  what was learned that the weights alone do not tell: ranks, masks, shares
    save(folder)              the trained form
    form(name)                one of the other forms that the trained method has, for its score
    finish()                  prune and merge: the inference form

Between the first step and the last a method may add parameters and retire others: it adds a group to `self.optimizer`
(with the key `begins` where its learning rate is to warm up of its own) or takes tensors out of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.backbone.kinds import KINDS
from bench.training.shards import whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bench.backbone.anatomy import Anatomy
    from bench.backbone.pretrained import Backbone

TEXT_KINDS = frozenset(name for name, kind in KINDS.items() if not kind.reads_images)
ADAPTER_FILE = "adapter.safetensors"
OTHER = "other"
FAMILIES = (
    "low-rank",
    "shared or random bases",
    "orthogonal",
    "spectral",
    "adapters",
    "prompts",
    "biases, scales, sparse parts",
    "references",
    OTHER,
)
"""Kinds of methods, for filters and colours."""


class Method:
    """What every method is and does; the defaults are those of a method without schedule and without extra loss."""

    kinds: frozenset[str] = frozenset(KINDS)
    """Kinds of task that the method can serve."""
    identity_at_start: bool = True
    """Whether the adapted model's output equals the base model's before the first step."""
    mergeable: bool = False
    """Whether `finish` leaves a model of the base's architecture and cost."""
    uses_every_parameter: bool = True
    """Whether the trainable tensors that take part in the loss are the same at every step."""
    reconstruction: ClassVar[bool] = False
    """Whether no authors' code was available to follow."""
    family: str = OTHER
    """One of `FAMILIES`."""
    paper: str = ""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.backbone: Backbone
        self._added: list[nn.Parameter] = []
        self.optimizer: torch.optim.Optimizer
        """What trains the method; the training loop puts it here before the first step."""
        self.seed = 0
        """Seed of the decisions in training; the runner puts the run's own here."""
        self.max_length: int | None = None
        """Most tokens of an example, None where that is not set; the runner puts the run's own here before `check`."""

    def check(self, anatomy: Anatomy) -> None:
        """Compare the settings with the model's shapes; `anatomy` is that of a model without weights.

        Raises SettingsError.
        """

    def plan_steps(self, total_steps: int) -> None:
        """Decide what happens when in a run of `total_steps` optimizer steps.

        Raises SettingsError where the settings do not fit that number.
        """

    def attach(self, backbone: Backbone, total_steps: int) -> None:
        """Make `backbone.model` the model to train: frozen but for the head and what the method declares."""
        self.plan_steps(total_steps)
        self.backbone = backbone
        train_only_head(backbone)
        pretrained = {id(parameter) for parameter in backbone.model.parameters()}
        self.insert(backbone, total_steps)
        self._added = [tensor for tensor in self.backbone.model.parameters() if id(tensor) not in pretrained]

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Add modules or select parameters; everything but the head is frozen when this is called."""
        raise NotImplementedError

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups over all trainable tensors; vectors, such as biases and norms, are not decayed."""
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in trainable(self.backbone.model):
            (plain if self.is_vector(name, parameter) else decayed).append(parameter)
        groups = [
            {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": plain, "lr": learning_rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def is_vector(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether a trainable tensor is a vector, whatever shape it is stored in."""
        return parameter.ndim < 2

    def prepare(self, draw: Callable[[int], Iterator[Mapping[str, Tensor]]]) -> None:
        """Look at training examples before the optimizer exists: `draw(n)` gives batches of n random ones.

        The model is on its device and frozen as `attach` left it; the same examples come in every process of a run.
        """

    def random(self, step: int) -> np.random.Generator:
        """What the hooks of one step draw from: the same numbers in every process and however often it is asked.

        Torch's global stream differs between the processes of a run.
        """
        return np.random.default_rng((self.seed, step))

    def before_step(self, step: int) -> None:
        """Called before the forward pass of optimizer step `step` (0 for the first).

        The meters call it and `compute_loss` for step 0 some more times before training begins, with torch's random
        states, the model's modes and its buffers restored afterwards: neither may count its calls.
        """

    def compute_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss to minimise and the task's loss alone, both scalars."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        task_loss = self.backbone.loss(model(**inputs).logits, batch["labels"])
        penalty = self.penalty()
        return (task_loss if penalty is None else task_loss + penalty), task_loss

    def penalty(self) -> Tensor | None:
        """A term added to the task loss in training; None where the method has none."""
        return None

    def after_backward(self, step: int) -> None:
        """Gradients are final (clipped), weights are old."""

    def after_step(self, step: int) -> None:
        """Weights are new, this step's gradients are still there."""

    @property
    def forms(self) -> tuple[str, ...]:
        """Names of forms of the trained method that are scored beside the one that counts, such as lower ranks."""
        return ()

    def form(self, name: str) -> AbstractContextManager[None]:
        """The model has the named form inside this context."""
        return contextlib.nullcontext()

    def report(self) -> dict[str, Any]:
        """What training decided beside the weights, as plain values by name: ranks, shares of masks, densities."""
        return {}

    def finish(self) -> None:
        """Turn the trained form into the inference form, in place."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the trainable tensors, the optimizer and the global random states."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What trains or was added, whether it trains by now or not; each with its name, once."""
        added = {id(parameter) for parameter in self._added}
        named = self.backbone.model.named_parameters()
        return ((name, tensor) for name, tensor in named if tensor.requires_grad or id(tensor) in added)

    def stored_tensors(self) -> dict[str, Tensor]:
        """What a saved adapter holds: the method's own parameters, by name; put together where they are split."""
        return {name: whole(parameter.detach()) for name, parameter in self.own_parameters()}

    def save(self, folder: Path) -> None:
        """Write the trained form to `folder`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in self.stored_tensors().items()}
        save_file(tensors, folder / ADAPTER_FILE)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote into an attached method with the same settings."""
        import torch
        from safetensors.torch import load_file

        stored = self.stored_tensors()
        loaded = load_file(folder / ADAPTER_FILE)
        if loaded.keys() != stored.keys():
            raise ValueError(f"{folder / ADAPTER_FILE} holds other tensors than this method trains")
        with torch.no_grad():
            for name, tensor in stored.items():
                tensor.copy_(loaded[name])


def train_only_head(backbone: Backbone) -> None:
    """Freeze every parameter but the task head's."""
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(backbone.anatomy.is_head(name))


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trainable parameters with their names, each once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
