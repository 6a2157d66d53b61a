"""Data-parallel training by Accelerate: one model per process, gradients averaged in the backward pass."""

from __future__ import annotations

import contextlib
import warnings
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from bench.measure import probe
from methods.base import trainable

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import nn

    from methods.base import Method
    from tasks.batch import Batch


def prepared(
    method: Method, optimizer: torch.optim.Optimizer, accelerator: Accelerator, example: Batch
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The method's model and optimizer as Accelerate trains them, in DistributedDataParallel over several processes.

    `example` is tried out to see whether every trainable tensor takes part in the loss, which is cheaper than to look
    for idle ones in every step.

    Buffers are not sent around: every process holds the same ones, since none depends on the examples.
    """
    from accelerate import DistributedDataParallelKwargs

    accelerator.ddp_handler = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        find_unused_parameters=accelerator.num_processes > 1 and _leaves_some_idle(method, accelerator, example),
        gradient_as_bucket_view=True,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # Accelerate knows no other name yet
        return accelerator.prepare(method.backbone.model, optimizer)


def _leaves_some_idle(method: Method, accelerator: Accelerator, example: Batch) -> bool:
    """Whether the backward pass may leave a trainable tensor without a gradient."""
    if not method.uses_every_parameter:
        return True
    model = method.backbone.model.to(accelerator.device)
    with probe.without_trace(model):
        model.train()
        method.before_step(0)
        with accelerator.autocast():
            loss, _ = method.compute_loss(model, example.on(accelerator.device).inputs)
        accelerator.backward(loss)
        return any(tensor.grad is None for _, tensor in trainable(model))


def gradients_kept_apart(model: nn.Module, apart: bool) -> AbstractContextManager[Any]:
    """A backward pass inside adds to this process's gradients alone, if `apart`; the next outside averages them."""
    waits = getattr(model, "no_sync", None) if apart else None
    return contextlib.nullcontext() if waits is None else waits()
