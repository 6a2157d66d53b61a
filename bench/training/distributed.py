"""Several processes at one model: replicated by Accelerate (DDP), or split over the processes (FSDP2).

Replicated, every process holds the whole model and gradients are averaged in the backward pass. Split, the processes
hold a part each of every weight that does not train, and gather a block's weights when it is their turn; what the
method trains stays whole in every process, so that methods need not know. Where nothing is frozen, everything is split.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from bench.training.shards import is_split
from bench.training.without_trace import without_trace
from methods.base import trainable

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor, nn

    from methods.base import Method
    from tasks.batch import Batch


def split(method: Method, accelerator: Accelerator) -> None:
    """Split the model's weights over the processes, block by block; to be called before the optimizer is made."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, anatomy = method.backbone.model, method.backbone.anatomy
    own = [tensor for _, tensor in trainable(model)]
    kept_whole = set() if len(own) == len(list(model.parameters())) else set(own)
    for tensor in kept_whole:
        tensor.data = tensor.data.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for _, block in anatomy.blocks:
        fully_shard(block, mesh=mesh, ignored_params=kept_whole)
    fully_shard(model, mesh=mesh, ignored_params=kept_whole)


def prepared(
    method: Method, optimizer: torch.optim.Optimizer, accelerator: Accelerator, example: Batch, splits: bool
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The method's model and optimizer as Accelerate trains them, in DistributedDataParallel over several processes.

    `example` is tried out to see whether every trainable tensor takes part in the loss, which is cheaper than to look
    for idle ones in every step. Buffers are not sent around: every process holds the same ones, since none depends on
    the examples.
    """
    from accelerate import DistributedDataParallelKwargs, DistributedType

    model = method.backbone.model
    if splits:
        model = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        return model, accelerator.prepare_optimizer(optimizer, device_placement=False)
    is_wrapped = accelerator.distributed_type is not DistributedType.NO  # also a single process that a launcher started
    accelerator.ddp_handler = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        find_unused_parameters=is_wrapped and _leaves_some_idle(method, accelerator, example),
        gradient_as_bucket_view=True,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # Accelerate knows no other name yet
        return accelerator.prepare(model, optimizer)


def _leaves_some_idle(method: Method, accelerator: Accelerator, example: Batch) -> bool:
    """Whether the backward pass may leave a trainable tensor without a gradient."""
    if not method.uses_every_parameter:
        return True
    model = method.backbone.model.to(accelerator.device)
    with without_trace(model):
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


def average_gradients(parameters: Iterable[Tensor], processes: int) -> None:
    """Average the gradients of tensors that every process holds whole beside a model that is split."""
    import torch

    whole_gradients = [tensor.grad for tensor in parameters if tensor.grad is not None and not is_split(tensor)]
    for gradient in whole_gradients:
        torch.distributed.all_reduce(gradient)
        gradient /= processes
