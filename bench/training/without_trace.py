"""Passes through a model that leave no trace in a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def without_trace(model: nn.Module) -> Iterator[None]:
    """Restores torch's random states and what modules hold beside their parameters, and drops the gradients."""
    import torch

    kept = [_Attributes(module) for module in model.modules()]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        for attributes in kept:
            attributes.restore()
        model.zero_grad(set_to_none=True)


class _Attributes:
    """A module's buffers and its plain attributes: mode, flags, counters, and dictionaries of these.

    A method may put another tensor in a buffer's place, or remember in a flag that it has seen its first batch.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._buffers = {name: (buffer, buffer.clone()) for name, buffer in module.named_buffers(recurse=False)}
        public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        self._plain = {name: value for name, value in public.items() if isinstance(value, (bool, int, float, str))}
        self._groups = {name: (value, dict(value)) for name, value in public.items() if type(value) is dict}

    def restore(self) -> None:
        """Put everything back, the same objects with the same content."""
        for name, (buffer, content) in self._buffers.items():
            buffer.data.copy_(content)
            setattr(self._module, name, buffer)
        vars(self._module).update(self._plain)
        for group, members in self._groups.values():
            group.clear()
            group.update(members)
