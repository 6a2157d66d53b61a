"""What the methods have in common that put an adapted layer in the place of every target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from bench.requirements import require_whole
from methods.base import Method

if TYPE_CHECKING:
    from bench.backbone.anatomy import Anatomy, Part
    from bench.backbone.pretrained import Backbone
    from methods.parts.adapted_linear import AdaptedLinear


class LinearMethod(Method):
    """A method of adapted linear layers: `targets` names them as LoRA's does, `finish` merges them.

    A subclass checks its numbers (`check_settings`, `check_part`) and makes the layer of one target (`adapted`), after
    what several targets share (`share`).
    """

    mergeable = True

    def __init__(self, learning_rate: float, targets: str | Sequence[str]) -> None:
        super().__init__(learning_rate)
        self.targets = [targets] if isinstance(targets, str) else list(targets)
        self.layers: dict[str, Any] = {}
        """The adapted layers by the names of what they replaced."""

    def check(self, anatomy: Anatomy) -> None:
        """The numbers must be in their ranges, the targets linear and large enough."""
        from methods.parts.linear import is_linear

        self.check_settings()
        for part in anatomy.match(self.targets):
            if not is_linear(part.module):
                kind = type(part.module).__name__
                raise SettingsError(f"method.targets: {part.name} is no linear layer but {kind}.")
            self.check_part(part)

    def check_settings(self) -> None:
        """Raise SettingsError for the first setting that is out of its range."""

    def check_part(self, part: Part) -> None:
        """Raise SettingsError for a target that the settings do not suit."""

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Put an adapted layer in the place of every target."""
        from methods.parts.linear import replace_module

        parts = backbone.anatomy.match(self.targets)
        self.share(parts)
        for part in parts:
            layer = self.adapted(part)
            replace_module(backbone.model, part.name, layer)
            self.layers[part.name] = layer

    def share(self, parts: Sequence[Part]) -> None:
        """Make what several targets have in common."""

    def adapted(self, part: Part) -> AdaptedLinear:
        """The layer that takes the place of `part`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Merge every change into its base layer and put that back."""
        from methods.parts.linear import replace_module

        for name, layer in self.layers.items():
            replace_module(self.backbone.model, name, layer.merged())


def check_rank(rank: int, part: Part, setting: str = "rank") -> None:
    """Raise SettingsError for a rank that is no whole number, below 1, or above the size of `part`."""
    from methods.parts.linear import in_out_features

    size = min(in_out_features(part.module))
    require_whole(f"method.{setting}", rank)
    if rank > size:
        raise SettingsError(f"method.{setting}={rank} is above the size of {part.name} ({size}).")
