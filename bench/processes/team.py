"""The processes that train one run together, each on its own device, in step with each other."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """This process's place among the processes of its run."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def share(self, items: Any) -> Any:
        """This process's part of a list or array: every `size`-th item, so that neighbours are spread evenly."""
        return items[self.rank :: self.size]

    def gathered(self, value: Value) -> list[Value]:
        """The values of all processes, by rank, on each of them. Every process must call this in the same order."""
        if self.size == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=_host_group())
        return values

    def greatest(self, value: int) -> int:
        """The greatest of all processes' values, on each of them."""
        return value if self.size == 1 else max(self.gathered(value))

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on each of them; in place."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.all_reduce(tensor)
        return tensor

    def merged(self, part: Mapping[int, Value]) -> list[Value]:
        """Values that were numbered 0, 1, ... and worked out by one process each, in the order of their numbers."""
        values = {number: value for found in self.gathered(dict(part)) for number, value in found.items()}
        return [values[number] for number in range(len(values))]


ALONE = Team()


@functools.cache
def _host_group() -> Any:
    """A process group that exchanges what lies in the hosts' memory, without waiting for the devices."""
    import torch.distributed

    return torch.distributed.new_group(backend="gloo")


def different(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names under which the processes' states differ."""
    first = states[0]
    return [name for name in first if any(state.get(name) != first[name] for state in states[1:])]
