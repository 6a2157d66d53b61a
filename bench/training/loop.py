"""The training loop: the same for every method, with the method's hooks around each optimizer step."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import Diverged
from bench.measure.throughput import StepClock
from bench.processes.team import ALONE, Team
from bench.training import distributed
from bench.training.batching import micro_batches, training_order
from bench.training.randomness import generator, random_state, set_random_state
from bench.training.schedule import Schedule
from bench.training.shards import like, whole

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bench.settings import TrainingSettings
    from methods.base import Method
    from tasks.base import Examples
    from tasks.batch import Batch


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
    """A fresh Accelerator; its process-wide state is reset, so that runs of one sweep may differ in precision.

    Where a launcher has set the variables of a process group (RANK, WORLD_SIZE, ...), it joins the group.
    """
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
    """One run's training: model, optimizer, schedule, data order and the position in it.

    Several processes share every optimizer step: each takes its part of the step's examples, weighted by its size, so
    that gradients, schedule and data order are those of a single process.
    """

    def __init__(
        self,
        method: Method,
        examples: Examples,
        settings: TrainingSettings,
        accelerator: Accelerator,
        steps: int,
        seed: int,
        micro_batch_size: int | None = None,
        team: Team = ALONE,
        splits: bool = False,
    ) -> None:
        import torch

        method.prepare(functools.partial(_drawn, method, examples, settings.batch_size, seed, accelerator.device))
        if splits:
            distributed.split(method, accelerator)
        groups = method.parameter_groups(settings.learning_rate, settings.weight_decay)
        method.optimizer = torch.optim.AdamW(groups, fused=True)
        example = examples.batch(np.arange(1))
        self._model, self._optimizer = distributed.prepared(method, method.optimizer, accelerator, example, splits)
        self._schedule = Schedule.of_run(settings, steps)
        self._averaged_by_wrapper = set() if splits else {id(parameter) for parameter in self._parameters}
        self._method = method
        self._examples = examples
        self._settings = settings
        self._accelerator = accelerator
        self._micro_batch_size = micro_batch_size
        self._team = team
        self._splits = splits
        self._order = _Order(examples, settings.batch_size, steps, seed)
        self._losses: list[Tensor] = []
        self._unlogged_samples, self._logged_at = 0, 0.0
        self.steps = steps
        self.step = 0
        self.mean_loss = math.nan

    def run(
        self,
        clock: StepClock,
        on_log: Callable[[LogPoint], None],
        until: int | None = None,
        on_step: Callable[[], None] = lambda: None,
    ) -> float:
        """Train up to step `until` (all by default) and return the mean task loss of the last logged steps.

        Raises Diverged when that mean is not finite; it is looked at every `log_steps` steps, so that the loop does
        not wait for the device in between.
        """
        self._model.train()
        if not self._unlogged_samples:
            self._logged_at = clock.seconds
        for indices in self._order.following(self.step, until):
            self._losses.append(self.train_on(indices, clock))
            self._unlogged_samples += len(indices)
            if self.step % self._settings.log_steps == 0 or self.step in (self.steps, until):
                seconds = clock.seconds
                on_log(self._log_point(seconds, seconds - self._logged_at))
                self._logged_at = seconds
            on_step()
        return self.mean_loss

    def _log_point(self, seconds: float, since: float) -> LogPoint:
        """The mean over the steps since the last point. Raises Diverged."""
        import torch

        self.mean_loss = float(self._team.summed(torch.stack(self._losses)).mean())
        if not math.isfinite(self.mean_loss):
            raise Diverged(f"the training loss is {self.mean_loss} at step {self.step}")
        samples, self._losses, self._unlogged_samples = self._unlogged_samples, [], 0
        return LogPoint(self.step, self.mean_loss, self._learning_rate(), samples / since, seconds)

    def train_on(self, indices: NDArray[np.int64], clock: StepClock) -> Tensor:
        """One optimizer step over the examples at `indices`.

        Returns this process's part of the mean task loss, still on the device; the parts add up to it.
        """
        import torch

        method = self._method
        method.before_step(self.step)
        losses, tokens, shapes = [], 0, []
        passes = self._passes(indices)
        for part, weight in passes:
            batch = self._examples.batch(part).on(self._accelerator.device)
            with distributed.gradients_kept_apart(self._model, part is not passes[-1][0]):
                loss, task_loss = method.compute_loss(self._model, batch.inputs)
                scale = weight * self._team.size  # gradients are averaged over the processes
                self._accelerator.backward(loss * scale if scale != 1 else loss)
            losses.append(task_loss.detach() * weight)
            tokens += batch.tokens if weight else 0
            shapes.append(batch.shape)
        if self._team.size > 1:
            left = [tensor for tensor in self._parameters if id(tensor) not in self._averaged_by_wrapper]
            distributed.average_gradients(left, self._team.size)
        self._accelerator.clip_grad_norm_(self._parameters, self._settings.max_gradient_norm)
        method.after_backward(self.step)
        self._schedule.set_rates(self._optimizer, self.step)
        self._optimizer.step()
        method.after_step(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        clock.step_done(len(indices), tokens, shapes)
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _passes(self, indices: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], float]]:
        """This process's forward passes of a step, each with its share of the terms that the step's loss is a mean of.

        Every process makes one at least, since all must join in averaging gradients, and as many as the first where
        weights are split; one that has too few examples for that takes one along with weight 0.
        """
        terms = self._examples.loss_terms
        parts = [part for part in micro_batches(self._team.share(indices), self._micro_batch_size) if len(part)]
        passes = [(part, int(terms[part].sum()) / int(terms[indices].sum())) for part in parts]
        wanted = len(micro_batches(indices[:: self._team.size], self._micro_batch_size)) if self._splits else 1
        return passes + [(indices[:1], 0.0)] * (wanted - len(passes))

    def _learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def _parameters(self) -> list[nn.Parameter]:
        """What the optimizer trains now."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def longest_batch(self) -> Batch:
        """The forward pass of this run that is padded to the greatest length, on the device."""
        return self._examples.batch(self.longest_batch_indices).on(self._accelerator.device)

    @functools.cached_property
    def longest_batch_indices(self) -> NDArray[np.int64]:
        """The examples of that pass, its longest last."""
        lengths = self._examples.lengths
        passes = (part for indices in self._order.following(0, None) for part, _ in self._passes(indices))
        longest = max(passes, key=lambda part: (lengths[part].max(), len(part)))
        return longest[np.argsort(lengths[longest], kind="stable")]

    def loss(self, batch: Batch) -> Tensor:
        """The loss of one pass as the current step would compute it, for meters; of this process alone."""
        model = self._method.backbone.model
        model.train()
        self._method.before_step(self.step)
        loss, _ = self._method.compute_loss(model, batch.inputs)
        return loss

    @property
    def model(self) -> nn.Module:
        """The model that trains, as Accelerate prepared it."""
        return self._model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, with its state."""
        return self._optimizer

    def fingerprint(self) -> dict[str, float]:
        """The sum of every tensor that trained, which is the same in all processes of a run if the tensors are."""
        return {name: float(whole(tensor.detach()).double().sum()) for name, tensor in self._trained()}

    def release(self) -> None:
        """Take Accelerate's wrapper off the model again."""
        self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)

    def let_go_of_optimizer(self) -> None:
        """Give up the optimizer with its state, which nothing needs after the last step."""
        self._accelerator.free_memory()
        del self._optimizer, self._method.optimizer

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if it had never stopped: tensors in the host's memory and plain values.

        All processes must call this; only what the first one gives is whole.
        """
        scaler = self._accelerator.scaler
        return {
            "step": self.step,
            "parameters": {name: self._kept(parameter.detach()) for name, parameter in self._trained()},
            "buffers": {name: self._kept(buffer) for name, buffer in self._kept_buffers()},
            "optimizer": self._kept(self._optimizer.state_dict()),
            "scaler": None if scaler is None else scaler.state_dict(),
            "method": self._method.state_dict(),
            "unlogged_samples": self._unlogged_samples,
            "logged_at": self._logged_at,
            "mean_loss": self.mean_loss,
            **self.own_state_dict(),
        }

    def own_state_dict(self) -> dict[str, Any]:
        """What this process alone has of it: random states, and its part of the losses that are not logged yet."""
        import torch

        losses = torch.stack(self._losses).cpu() if self._losses else torch.empty(0)
        return {"random": random_state(), "losses": losses}

    def _kept(self, state: Any) -> Any:
        """Tensors put together, one after the other, and copied to the host's memory; by the first process alone."""
        if isinstance(state, dict):
            return {key: self._kept(value) for key, value in state.items()}
        if isinstance(state, (list, tuple)):
            return type(state)(map(self._kept, state))
        if not hasattr(state, "shape"):
            return state
        found = whole(state)
        return found.to("cpu", copy=True) if self._team.is_first else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, with this process's own part of it."""
        import torch

        model = self._method.backbone.model
        self._method.load_state_dict(state["method"])
        with torch.no_grad():
            parameters = dict(model.named_parameters())
            for name, saved in state["parameters"].items():
                parameters[name].copy_(like(saved, parameters[name]))
            for name, buffer in self._kept_buffers():
                buffer.copy_(state["buffers"][name])
        self._optimizer.load_state_dict(self._split_as_here(state["optimizer"]))
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])
        self._losses = list(state["losses"].to(self._accelerator.device))
        self._unlogged_samples, self._logged_at = state["unlogged_samples"], state["logged_at"]
        self.mean_loss = state["mean_loss"]
        self.step = state["step"]

    def _split_as_here(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimizer's state of whole tensors, split as the parameters are."""
        numbered = dict(enumerate(self._parameters))
        moments = {
            number: {
                name: like(value, numbered[number]) if hasattr(value, "shape") else value
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        }
        return state | {"state": moments}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer changes, and what the method holds: it may switch tensors on and off."""
        optimised = {id(parameter) for parameter in self._parameters}
        own = dict(self._method.own_parameters())
        named = self._method.backbone.model.named_parameters()
        return ((name, tensor) for name, tensor in named if name in own or id(tensor) in optimised)

    def _kept_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The buffers that cannot be made anew, which modules declare persistent."""
        model = self._method.backbone.model
        persistent = model.state_dict(keep_vars=True).keys()
        return ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)


def _drawn(
    method: Method, examples: Examples, batch_size: int, seed: int, device: torch.device, count: int
) -> Iterator[Mapping[str, Tensor]]:
    """Model inputs of `count` random training examples, in batches, with the method's model on their device."""
    method.backbone.model.to(device)
    chosen = generator(seed, "preparation").permutation(len(examples))[:count]
    for start in range(0, len(chosen), batch_size):
        yield examples.batch(np.sort(chosen[start : start + batch_size])).on(device).inputs


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
