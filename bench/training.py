"""The training loop: the same for every method, with the method's hooks around each optimizer step."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.batching import micro_batches, training_order
from bench.errors import Diverged
from bench.measure.throughput import StepClock
from bench.randomness import generator
from methods.base import trainable

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bench.settings import TrainingSettings
    from methods.base import Method
    from tasks.base import Examples
    from tasks.batch import Batch

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class LogPoint:
    """The mean over the steps since the last point: task loss, learning rate of the last step, samples per second."""

    step: int
    loss: float
    learning_rate: float
    samples_per_second: float
    seconds: float


def total_steps(settings: TrainingSettings, examples: int) -> int:
    """Optimizer steps of a run over `examples` training examples."""
    if settings.max_steps is not None:
        return settings.max_steps
    return max(1, math.ceil(settings.epochs * math.ceil(examples / settings.batch_size)))


def accelerator(device: str, precision: str) -> Accelerator:
    """A fresh Accelerator; its process-wide state is reset, so that runs of one sweep may differ in precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device == "cpu", mixed_precision="no" if precision == "fp32" else precision)


def store_frozen_in(model: Any, precision: str) -> None:
    """Keep frozen weights in half precision where the run computes in it; what trains stays in float32.

    A norm of which a part trains stays whole: its kernel takes no weight and bias of two types.
    """
    import torch

    if precision == "fp32":
        return
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if any(parameter.requires_grad for parameter in own) and all(parameter.ndim == 1 for parameter in own):
            continue
        for parameter in own:
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)


class TrainingLoop:
    """One run's training: model, optimizer, schedule, data order and the position in it."""

    def __init__(
        self,
        method: Method,
        examples: Examples,
        settings: TrainingSettings,
        accelerator: Accelerator,
        steps: int,
        seed: int,
        micro_batch_size: int | None = None,
    ) -> None:
        import torch
        from transformers import get_scheduler

        groups = method.parameter_groups(settings.learning_rate, settings.weight_decay)
        optimizer = torch.optim.AdamW(groups, fused=True)
        self._model, self._optimizer = accelerator.prepare(method.backbone.model, optimizer)
        warmup = math.ceil(settings.warmup_ratio * steps) if settings.warmup_steps is None else settings.warmup_steps
        self._schedule = get_scheduler(SCHEDULES[settings.schedule], optimizer, warmup, steps)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._method = method
        self._examples = examples
        self._settings = settings
        self._accelerator = accelerator
        self._micro_batch_size = micro_batch_size
        self._order = _Order(examples, settings.batch_size, steps, seed)
        self.steps = steps
        self.step = 0

    def run(self, clock: StepClock, on_log: Callable[[LogPoint], None], until: int | None = None) -> float:
        """Train up to step `until` (all by default) and return the mean task loss of the last logged steps.

        Raises Diverged when that mean is not finite; it is looked at every `log_steps` steps, so that the loop does
        not wait for the device in between.
        """
        import torch

        self._model.train()
        losses: list[Tensor] = []
        start = last_time = clock.now()
        samples = 0
        mean = math.nan
        for indices in self._order.following(self.step, until):
            losses.append(self.train_on(indices, clock))
            samples += len(indices)
            if self.step % self._settings.log_steps == 0 or self.step in (self.steps, until):
                mean = float(torch.stack(losses).mean())
                if not math.isfinite(mean):
                    raise Diverged(f"the training loss is {mean} at step {self.step}")
                time = clock.now()
                on_log(LogPoint(self.step, mean, self._learning_rate(), samples / (time - last_time), time - start))
                losses, samples, last_time = [], 0, time
        return mean

    def train_on(self, indices: NDArray[np.int64], clock: StepClock) -> Tensor:
        """One optimizer step over the examples at `indices`; returns the task loss, still on the device."""
        import torch

        method = self._method
        method.before_step(self.step)
        losses, tokens, shapes = [], 0, []
        for part in micro_batches(indices, self._micro_batch_size):
            batch = self._examples.batch(part).on(self._accelerator.device)
            share = batch.samples / len(indices)
            loss, task_loss = method.compute_loss(self._model, batch.inputs)
            self._accelerator.backward(loss * share if share != 1 else loss)
            losses.append(task_loss.detach() * share)
            tokens += batch.tokens
            shapes.append(batch.shape)
        self._accelerator.clip_grad_norm_(self._parameters, self._settings.max_gradient_norm)
        method.after_backward(self.step)
        self._optimizer.step()
        self._schedule.step()
        method.after_step(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        clock.step_done(len(indices), tokens, shapes)
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _learning_rate(self) -> float:
        return float(self._schedule.get_last_lr()[0])

    def longest_batch(self) -> Batch:
        """The forward pass of this run that is padded to the greatest length, on the device."""
        return self._examples.batch(self.longest_batch_indices).on(self._accelerator.device)

    @functools.cached_property
    def longest_batch_indices(self) -> NDArray[np.int64]:
        """The examples of that pass, its longest last."""
        lengths = self._examples.lengths
        passes = (
            part
            for indices in self._order.following(0, None)
            for part in micro_batches(indices, self._micro_batch_size)
        )
        longest = max(passes, key=lambda part: (lengths[part].max(), len(part)))
        return longest[np.argsort(lengths[longest], kind="stable")]

    def loss(self, batch: Batch) -> Tensor:
        """The loss of one pass as the current step would compute it, for meters."""
        self._model.train()
        self._method.before_step(self.step)
        loss, _ = self._method.compute_loss(self._model, batch.inputs)
        return loss

    @property
    def model(self) -> nn.Module:
        """The model that trains, as Accelerate prepared it."""
        return self._model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, with its state."""
        return self._optimizer

    def release(self) -> None:
        """Take Accelerate's wrapper off the model again."""
        self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if it had never stopped."""
        import torch

        model = self._method.backbone.model
        return {
            "step": self.step,
            "parameters": {name: parameter.detach().clone() for name, parameter in trainable(model)},
            "buffers": {name: buffer.clone() for name, buffer in model.named_buffers()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "method": self._method.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        import torch

        model = self._method.backbone.model
        with torch.no_grad():
            parameters = dict(model.named_parameters())
            for name, saved in state["parameters"].items():
                parameters[name].copy_(saved)
            for name, buffer in model.named_buffers():
                buffer.copy_(state["buffers"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._method.load_state_dict(state["method"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"]:
            torch.cuda.set_rng_state_all(state["cuda_random"])
        self.step = state["step"]


@dataclass(frozen=True)
class _Order:
    """The run's batches, as a function of the seed alone; any position can be taken up again."""

    examples: Examples
    batch_size: int
    steps: int
    seed: int

    def following(self, step: int, until: int | None) -> Iterator[NDArray[np.int64]]:
        """Example indices of the batches from `step` to `until`."""
        batches = training_order(self.examples.lengths, self.batch_size, self.steps, generator(self.seed, "order"))
        return itertools.islice(batches, step, until)
